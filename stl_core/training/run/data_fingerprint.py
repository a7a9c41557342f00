"""
Fingerprint of the data of a run: a resumed run must train and validate on the same frames.

It holds digests of what a training reads from a data set, not of paths or times, so that a data
set can be moved or copied. Pixels are compared by the size of their files alone: reading them all
would take minutes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from stl_core.data import dataset
from stl_core.data.frame_source import LazyArray, SourceImage
from stl_core.training.resolved_config import ResolvedConfig


@dataclass(frozen=True)
class DataFingerprint:
    """
    Fingerprint of the frames of a data set; digests are 16 hexadecimal digits.

    :param frames: number of frames.
    :param ids: digest of the ids, in order.
    :param calibration: digest of the projections P.
    :param labels: digest of the labelled objects; images without labels differ from empty ones.
    :param files: digest of the sizes in bytes of images and, if the run reads depth, of the stored
        depth maps, or of the scans of frames that have none.
    """

    frames: int
    ids: str
    calibration: str
    labels: str
    files: str


#: Fingerprints of a run: 'train' and 'val'.
RunData = Mapping[str, DataFingerprint]


def fingerprint(
    images: Sequence[SourceImage], with_depth: bool, with_poses: bool = False
) -> DataFingerprint:
    """
    Compute the fingerprint of frames; it reads no file.

    :param images: the frames in their order.
    :param with_depth: whether the run reads depth.
    :param with_poses: whether it reads the poses of the cameras, which then are calibration, too.
    """
    sizes = (
        [_file_size(each.pixels), *([_file_size(_depth_of(each))] if with_depth else [])]
        for each in images
    )
    return DataFingerprint(
        frames=len(images),
        ids=_digest(f'{each.camera}/{each.id}'.encode() for each in images),
        calibration=_digest(_calibration_bytes(each, with_poses) for each in images),
        labels=_digest(_label_bytes(each) for each in images),
        files=_digest(json.dumps(each).encode() for each in sizes),
    )


def fingerprint_run(
    resolved: ResolvedConfig, train: Sequence[SourceImage], val: Sequence[SourceImage]
) -> dict[str, DataFingerprint]:
    """Return the fingerprints of the frames of a run."""
    multi_view = resolved.model_spec.multi_view
    loads_depth = resolved.image_loader is dataset.load_image_and_depth
    supervised = getattr(resolved.config.detector.options, 'depth_supervision', '') == 'scan'
    return {
        'train': fingerprint(train, loads_depth or supervised, multi_view),
        'val': fingerprint(val, resolved.config.input.needs_depth_maps, multi_view),
    }


def read_run_data(resolved: ResolvedConfig) -> dict[str, DataFingerprint]:
    """Read labels and calibrations of a run's frames, and return their fingerprints."""
    config = resolved.config
    train, val = dataset.list_frames(config.train), dataset.list_frames(config.val)
    return fingerprint_run(resolved, train, val)


def to_json(data: RunData) -> dict[str, Any]:
    """Return fingerprints as plain data, for from_json."""
    return {name: asdict(each) for name, each in data.items()}


def from_json(value: Any) -> dict[str, DataFingerprint] | None:
    """Return the fingerprints of plain data; None for a record of another version or form."""
    known = {field.name for field in fields(DataFingerprint)}
    if not isinstance(value, dict) or any(
        not isinstance(each, dict) or each.keys() != known for each in value.values()
    ):
        return None
    return {name: DataFingerprint(**each) for name, each in value.items()}


def differences(here: RunData, there: RunData) -> list[str]:
    """
    List what differs between the data of two runs, such as 'train ids (2 frames then, 4 now)'.

    If the ids differ, what belongs to the frames is not compared.
    """
    found = []
    for name in sorted(here.keys() & there.keys()):
        now, then = here[name], there[name]
        if now.ids != then.ids:
            found.append(f'{name} ids ({then.frames} frames then, {now.frames} now)')
            continue
        found += [
            f'{name} {part}'
            for part in ('labels', 'calibration', 'files')
            if getattr(now, part) != getattr(then, part)
        ]
    return found


def _depth_of(image: SourceImage) -> LazyArray:
    return image.depth if image.depth.exists else image.points


def _file_size(array: LazyArray) -> int | None:
    """Return the size of the file that holds an array; None if its location is no file."""
    for location in (array.location, array.location.partition('[')[0]):  # with an index, or not
        try:
            return Path(location).stat().st_size if array.exists else None
        except OSError:
            continue
    return None


def _calibration_bytes(image: SourceImage, with_pose: bool) -> bytes:
    pose = image.vehicle_T_cam if with_pose else None
    return b''.join(each.astype('<f8').tobytes() for each in (image.P, pose) if each is not None)


def _label_bytes(image: SourceImage) -> bytes:
    labels = image.labels
    if labels is None:
        return b'unlabelled'
    numbers = (
        *(labels.truncated, labels.occluded, labels.alpha, labels.score),
        *(labels.center_m, labels.size_hwl_m, labels.rotation_y, labels.box_px),
    )
    return b'|'.join(
        [' '.join(map(str, labels.name)).encode(), *(x.astype('<f8').tobytes() for x in numbers)]
    )


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, 'little'))  # otherwise 'a', 'bc' would be 'ab', 'c'
        digest.update(part)
    return digest.hexdigest()[:16]
