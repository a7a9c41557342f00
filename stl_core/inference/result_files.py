"""
Run a Predictor on the frames of a data set and write KITTI result files.

Frames are processed one by one, as on the vehicle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stl_core.data import depth_maps
from stl_core.data.checks.projection import require_projection
from stl_core.data.frame_source import DataError, LazyArray, SourceImage
from stl_core.data.given_depth import COMPLETE, fit_size
from stl_core.data.sources import kitti
from stl_core.evaluation.metric import ProtocolDetections
from stl_core.inference.given_depths import given_depths
from stl_core.inference.predictor import Detections, Predictor
from stl_core.types import Array, Labels

if TYPE_CHECKING:
    from stl_core.models.published_protocol import PublishedProtocol

#: Least score of detections that are shown if the header of the model has no threshold, as that
#: of the node.
DEFAULT_SCORE = 0.1
#: Lists the ids of a folder's result files if they are not numbers.
FRAME_IDS = '.frame_ids'


class FramePrediction(NamedTuple):
    """Image (H, W, 3) uint8 RGB, projection (3, 4) and detections, camera frame, of a frame."""

    image: Array
    P: Array
    detections: Detections


def predict_frames(predictor: Predictor, frames: Sequence[SourceImage]) -> list[Labels]:
    """Run a Predictor on the images of a data set, one by one; return detections as labels."""
    return list(predict_protocols(predictor, frames).ours)


def predict_protocols(
    predictor: Predictor,
    frames: Sequence[SourceImage],
    published: PublishedProtocol | None = None,
    given: str = COMPLETE,
) -> ProtocolDetections:
    """
    Run a Predictor on the images of a data set, one by one, and keep the detections alone.

    :param predictor: the detector.
    :param frames: images of a data set.
    :param published: the published protocol of the detector; None if it has none.
    :param given: given depth of a privileged teacher, see given_depths; no matter for others.
    :return: detections as labels, by each protocol.
    """
    found = predict_detections(predictor, frames, published, given)
    return as_protocol_detections(found, predictor.spec.classes)


def predict_detections(
    predictor: Predictor,
    frames: Sequence[SourceImage],
    published: PublishedProtocol | None = None,
    given: str = COMPLETE,
) -> list[Detections]:
    """Do the same, and return the detections of each frame in its camera frame."""
    depths = given_depths(predictor.spec, frames, given)
    return [
        predict_frame(predictor, frame, published, depth).detections
        for frame, depth in zip(frames, depths, strict=True)
    ]


def as_protocol_detections(
    found: Sequence[Detections], classes: tuple[str, ...]
) -> ProtocolDetections:
    """Convert the detections of frames to labels, by each protocol."""
    published = [each.published for each in found if each.published is not None]
    return ProtocolDetections(
        [kitti.to_labels(each.ours, classes) for each in found],
        [kitti.to_labels(each, classes) for each in published] if published else None,
        sum(each.num_not_finite for each in found),
    )


def predict_frame(
    predictor: Predictor,
    frame: SourceImage,
    published: PublishedProtocol | None = None,
    given_depth: LazyArray | None = None,
) -> FramePrediction:
    """
    Load a frame and detect objects in its image, or in its depth map for a teacher.

    :param predictor: the detector; its input decides between image and depth map.
    :param frame: image of a data set.
    :param published: the published protocol of the detector; None skips it.
    :param given_depth: depth that a privileged teacher is given, see given_depths; None takes that
        of the frame's labels.
    :return: image, projection and detections.
    :raises DataError: for a missing or malformed file, and a projection that is none of the image.
    """
    image = frame.pixels.read()
    require_projection(frame, image.shape[1], image.shape[0])
    network_image = image
    if predictor.spec.input.depth is not None:
        network_image = depth_maps.load_frame_depth(frame, image.shape[1], image.shape[0])
    given = None
    if predictor.spec.input.given_depth:
        depth = given_depth or given_depths(predictor.spec, [frame])[0]
        assert depth is not None  # a model with given depth has some of every frame
        given = [fit_size(depth.read(), image.shape[:2])]
    (detections,) = predictor.detect([network_image], [frame.P], published, given)
    return FramePrediction(image, frame.P, detections)


def write_result_files(
    folder: Path,
    frames: Sequence[SourceImage],
    detections: Sequence[Labels],
    clear: bool = False,
) -> None:
    """
    Write one KITTI result file per frame, after removing those of an earlier call.

    Files of an earlier call are result files that a number names, as in KITTI; ids of another
    form are listed in the file FRAME_IDS of the folder.

    :param folder: created if missing; other files stay.
    :param frames: frames that name the files, see frame_names.
    :param detections: detections of each frame.
    :param clear: remove result files of any name, see require_no_other_results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / FRAME_IDS
    earlier = _listed_ids(folder)
    for path in _result_files(folder):
        if clear or path.stem.isdigit() or path.stem in earlier:
            path.unlink()
    listed.unlink(missing_ok=True)
    names = frame_names(frames)
    if not all(name.isdigit() for name in names):
        listed.write_text('\n'.join(names))
    for name, labels in zip(names, detections, strict=True):
        (folder / f'{name}.txt').write_text(kitti.format_results(labels))


def require_no_other_results(folder: Path, frames: Sequence[SourceImage], clear: bool) -> None:
    """
    Check, before the work, that a folder holds no result files that a run will not write.

    Two sets of results in one folder look like one set.

    :param folder: it may be missing.
    :param frames: frames that the run will write.
    :param clear: whether the run removes such files, so that they are no error.
    :raises DataError: naming the folder, the number of such files and the first ones.
    """
    names = set(frame_names(frames))
    others = [path.stem for path in _result_files(folder) if path.stem not in names]
    if others and not clear:
        raise _other_files_error(folder, others, 'result files')


def require_no_other_pictures(
    folder: Path, frames: Sequence[SourceImage], clear: bool
) -> list[Path]:
    """
    Do the same for the pictures (.png) of a run, and return those that it must remove.

    :raises DataError: as require_no_other_results.
    """
    names = set(frame_names(frames))
    others = sorted(path for path in folder.glob('*.png') if path.stem not in names)
    if others and not clear:
        raise _other_files_error(folder, [path.stem for path in others], 'pictures')
    return others


class ResultPair(NamedTuple):
    """A label file and the result file of the same name; None if there is none."""

    label: Path
    result: Path | None


def pair_with_labels(labels: Path, results: Path, ids: Sequence[str] = ()) -> list[ResultPair]:
    """
    Pair label files with the result files of the same names.

    :param labels: folder of label files.
    :param results: folder of result files.
    :param ids: frames to pair; () for all label files.
    :return: one pair per frame.
    :raises DataError: for a folder without a label or result file, a frame without a label file,
        or a result file that no label file belongs to.
    """
    label_paths, result_paths = (
        {path.stem: path for path in sorted(folder.glob('*.txt'))} for folder in (labels, results)
    )
    if not label_paths:
        raise DataError(f'{labels}: no label file (ID.txt) in this folder')
    if not result_paths:
        raise DataError(f'{results}: no result file (ID.txt) in this folder')
    unknown = [name for name in result_paths if name not in label_paths]
    if unknown:
        raise DataError(
            f'{results}: {len(unknown)} of {len(result_paths)} result files belong to no label'
            f' file in {labels} ({first_names(unknown)})'
        )
    unlabelled = [name for name in ids if name not in label_paths]
    if unlabelled:
        raise DataError(
            f'{labels}: {len(unlabelled)} of {len(ids)} frames of the split have no label file'
            f' ({first_names(unlabelled)})'
        )
    return [ResultPair(label_paths[name], result_paths.get(name)) for name in ids or label_paths]


def first_names(names: Sequence[str], count: int = 3) -> str:
    """Return the first few of many names, for messages."""
    return ', '.join(names[:count]) + (', ...' if len(names) > count else '')


def frame_names(frames: Sequence[SourceImage]) -> list[str]:
    """Return a name per frame: its id, or its index if two frames share an id."""
    ids = [frame.id for frame in frames]
    return ids if len(set(ids)) == len(ids) else [f'{number:06d}' for number in range(len(ids))]


def _other_files_error(folder: Path, names: Sequence[str], what: str) -> DataError:
    return DataError(
        f'{folder}: holds {len(names)} {what} that this run does not write'
        f' ({first_names(names)}); choose another folder, or remove them with --clear'
    )


def _listed_ids(folder: Path) -> set[str]:
    """Return the ids that the file FRAME_IDS of a folder lists."""
    listed = folder / FRAME_IDS
    return set(listed.read_text().split('\n')) if listed.exists() else set()


def _result_files(folder: Path) -> list[Path]:
    """
    Return the result files in a folder: they have a result file's columns.

    An empty file is one if a number names it or FRAME_IDS lists it; labels and calibrations have
    other columns.
    """
    earlier, found = _listed_ids(folder), []
    for path in sorted(folder.glob('*.txt')):
        try:
            columns = {len(line.split()) for line in path.read_text().splitlines()} - {0}
        except (UnicodeDecodeError, OSError):
            continue
        named = path.stem.isdigit() or path.stem in earlier
        if columns == {kitti.RESULT_COLUMNS} or (not columns and named):
            found.append(path)
    return found
