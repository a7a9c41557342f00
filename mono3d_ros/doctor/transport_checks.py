"""
Checks of `doctor` for causes of lost large images: settings of the middleware and of the kernel.

Pure functions that need only Python.
"""

from __future__ import annotations

from collections.abc import Iterator

from mono3d_ros.doctor.check_result import NOTE, WARNING, CheckResult
from mono3d_ros.doctor.environment import Environment
from mono3d_ros.monitoring import transport_advice

#: Receive buffer that Cyclone DDS needs for a raw 1080p image, bytes.
MIN_BUFFER_BYTES = 10_000_000
BUFFER_SETTING = 'net.core.rmem_max'
RAISE_BUFFER_COMMAND = (
    f'sudo sysctl -w {BUFFER_SETTING}=2147483647 (permanently: a file in /etc/sysctl.d)'
)


def check_transport(env: Environment) -> Iterator[CheckResult]:
    """Yield the problems of the middleware in use; for each middleware only its own settings."""
    probe = env.trials.get('rclpy')
    rmw = probe.said.get('rmw', '') if probe else ''
    if 'fastrtps' in rmw:
        yield from _check_fastdds(env)
    elif 'cyclonedds' in rmw:
        yield from _check_cyclone(env)


def _check_fastdds(env: Environment) -> Iterator[CheckResult]:
    settings = {transport_advice.TRANSPORTS_VARIABLE, *transport_advice.PROFILE_VARIABLES}
    setting = transport_advice.localhost_setting(env.variables)
    if setting:
        yield CheckResult(
            WARNING,
            f'{setting} makes Fast DDS ignore FASTDDS_BUILTIN_TRANSPORTS: large images are lost '
            'silently',
            transport_advice.localhost_remedy(setting),
        )
    elif not settings & set(env.variables):
        yield CheckResult(
            WARNING,
            "Fast DDS's default transports lose large images silently",
            'export FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA for cameras and detector; the launch '
            'files set it for the detector',
        )


def _check_cyclone(env: Environment) -> Iterator[CheckResult]:
    buffer = env.settings.get(BUFFER_SETTING, MIN_BUFFER_BYTES)
    in_file = f'{transport_advice.CYCLONE_BUFFER} in the CYCLONEDDS_URI file: docs/vehicle.md'
    if buffer < MIN_BUFFER_BYTES:
        yield CheckResult(
            WARNING,
            f'{BUFFER_SETTING} is {buffer} bytes: Cyclone DDS loses large best-effort images',
            f'parameter reliability: reliable; or {RAISE_BUFFER_COMMAND} and {in_file} (not '
            'min="...": above the limit of the kernel it stops every node)',
        )
    elif 'CYCLONEDDS_URI' not in env.variables:
        yield CheckResult(
            NOTE,
            'Cyclone DDS requests small receive buffers by default',
            f'parameter reliability: reliable, or set {in_file}',
        )
