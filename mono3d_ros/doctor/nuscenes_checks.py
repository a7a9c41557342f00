"""Check of `doctor` of nuScenes' devkit, which judges detectors; the node does not need it."""

from __future__ import annotations

from collections.abc import Iterator

from mono3d_ros.doctor.check_result import NOTE, CheckResult
from mono3d_ros.doctor.environment import Environment

#: Packages that the devkit imports to judge detections, by import name -> by pip name.
PACKAGES = {
    'pyquaternion': 'pyquaternion',
    'cachetools': 'cachetools',
    'sklearn': 'scikit-learn',
    'tqdm': 'tqdm',
    'PIL': 'pillow',
}
#: The version that the results were compared with.
VERSION = '1.2.0'


def check_nuscenes(env: Environment) -> Iterator[CheckResult]:
    """Yield what an installed devkit lacks; nothing without it."""
    if 'nuscenes' not in env.modules:
        return
    lacking = [pip for name, pip in PACKAGES.items() if name not in env.modules]
    if lacking:
        yield CheckResult(
            NOTE,
            f'nuscenes-devkit lacks {", ".join(lacking)}: it cannot judge detections',
            f'{env.executable} -m pip install {" ".join(lacking)}',
        )
    version = env.versions.get('nuscenes-devkit', VERSION)
    if version != VERSION:
        yield CheckResult(
            NOTE,
            f'nuscenes-devkit {version}: figures were compared with {VERSION}',
            f'{env.executable} -m pip install --no-deps nuscenes-devkit=={VERSION}',
        )
