"""
Judging a detector on labelled frames, and which of several evaluations is the best.

It is judged through the Predictor that the vehicle uses, one image at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stl_core.data import depth_maps
from stl_core.data.sources import kitti
from stl_core.inference.predictor import Predictor
from stl_core.types import Array, Labels, Objects3D


def predict_frames(predictor: Predictor, frames: Sequence[kitti.FrameFiles]) -> list[Labels]:
    """Run a Predictor over frames on disk, one by one -> detections as labels."""
    found = []
    for files in frames:
        _, _, objects = predict_frame(predictor, files)
        found.append(kitti.to_labels(objects, predictor.spec.classes))
    return found


def predict_frame(predictor: Predictor, files: kitti.FrameFiles) -> tuple[Array, Array, Objects3D]:
    """
    Return image and P2 of a frame, and what is found in it, or by a teacher in its depth.

    :raises DataError: for a missing or malformed file.
    """
    image, P = kitti.read_image(files.image_2), kitti.read_calib(files.calib).P2
    network_image = image
    if predictor.spec.input.depth is not None:
        network_image = depth_maps.load_frame_depth(files, image.shape[1], image.shape[0])
    (objects,) = predictor([network_image], [P])
    return image, P, objects


def write_result_files(
    folder: Path, frames: Sequence[kitti.FrameFiles], detections: Sequence[Labels]
) -> None:
    """Write one KITTI result file a frame; those of another student are taken away before."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob('*.txt')):
        if path.stem.isdigit() and _is_result_file(path):
            path.unlink()
    for name, labels in zip(_frame_names(frames), detections, strict=True):
        (folder / f'{name}.txt').write_text(kitti.format_results(labels))


def _is_result_file(path: Path) -> bool:
    """Whether a file is a KITTI result file: labels and calibrations have other columns."""
    try:
        lines = path.read_text().splitlines()
    except (UnicodeDecodeError, OSError):
        return False
    return all(len(line.split()) in (0, kitti.RESULT_COLUMNS) for line in lines)


def _frame_names(frames: Sequence[kitti.FrameFiles]) -> list[str]:
    """Name frames by id; by number where frames of several sources share an id."""
    ids = [files.id for files in frames]
    return ids if len(set(ids)) == len(ids) else [f'{number:06d}' for number in range(len(ids))]
