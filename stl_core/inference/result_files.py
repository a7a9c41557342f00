"""
Run a Predictor on the frames of a data set and write KITTI result files.

Frames are processed one by one, as on the vehicle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stl_core.data import depth_maps
from stl_core.data.frame_source import SourceImage
from stl_core.data.sources import kitti
from stl_core.inference.predictor import Predictor
from stl_core.types import Array, Labels, Objects3D

#: Lists the ids of a folder's result files if they are not numbers.
FRAME_IDS = '.frame_ids'


def predict_frames(predictor: Predictor, frames: Sequence[SourceImage]) -> list[Labels]:
    """Run a Predictor on the images of a data set, one by one; return detections as labels."""
    detections = []
    for frame in frames:
        _, _, objects = predict_frame(predictor, frame)
        detections.append(kitti.to_labels(objects, predictor.spec.classes))
    return detections


def predict_frame(predictor: Predictor, frame: SourceImage) -> tuple[Array, Array, Objects3D]:
    """
    Load a frame and detect objects in its image, or in its depth map for a teacher.

    :param predictor: the detector; its input decides between image and depth map.
    :param frame: image of a data set.
    :return: image (H, W, 3) uint8 RGB, projection P (3, 4), detections in the camera frame.
    :raises DataError: for a missing or malformed file.
    """
    image = frame.pixels.read()
    network_image = image
    if predictor.spec.input.depth is not None:
        network_image = depth_maps.load_frame_depth(frame, image.shape[1], image.shape[0])
    (objects,) = predictor([network_image], [frame.P])
    return image, frame.P, objects


def write_result_files(
    folder: Path, frames: Sequence[SourceImage], detections: Sequence[Labels]
) -> None:
    """
    Write one KITTI result file per frame, after removing those of an earlier call.

    Files of an earlier call are result files that a number names, as in KITTI; ids of another
    form are listed in the file FRAME_IDS of the folder.

    :param folder: created if missing; other files stay.
    :param frames: frames that name the files, see _frame_names.
    :param detections: detections of each frame.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / FRAME_IDS
    earlier = set(listed.read_text().split('\n')) if listed.exists() else set()
    for path in sorted(folder.glob('*.txt')):
        if (path.stem.isdigit() or path.stem in earlier) and _is_result_file(path):
            path.unlink()
    listed.unlink(missing_ok=True)
    names = _frame_names(frames)
    if not all(name.isdigit() for name in names):
        listed.write_text('\n'.join(names))
    for name, labels in zip(names, detections, strict=True):
        (folder / f'{name}.txt').write_text(kitti.format_results(labels))


def _is_result_file(path: Path) -> bool:
    """Return whether a file has a result file's columns; labels and calibrations have others."""
    try:
        lines = path.read_text().splitlines()
    except (UnicodeDecodeError, OSError):
        return False
    return all(len(line.split()) in (0, kitti.RESULT_COLUMNS) for line in lines)


def _frame_names(frames: Sequence[SourceImage]) -> list[str]:
    """Return a name per frame: its id, or its index if two frames share an id."""
    ids = [frame.id for frame in frames]
    return ids if len(set(ids)) == len(ids) else [f'{number:06d}' for number in range(len(ids))]
