"""
The interface of a data set format: a FrameSource lists samples and reads one by its id.

Training, evaluation and prediction see SourceImages only. A format is one module in data/sources/
and one line in SOURCES.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Protocol

from stl_core.types import Array, Labels
from stl_core.vehicle_types import VehicleLabels

#: Suffixes that lists of frames carry, though ids have none.
ID_SUFFIXES = ('.png', '.jpg', '.jpeg', '.txt', '.bin')


class DataError(ValueError):
    """A missing or malformed file; the message names it."""


@dataclass(frozen=True)
class LazyArray:
    """
    An array of a data set that is read when it is needed, often in another process.

    :param location: where the array is, or would be, for error messages: a path, or a path and an
        index.
    :param load: picklable function that reads the array; None if the data set lacks it.
    """

    location: str = ''
    load: Callable[[], Array] | None = None

    @property
    def exists(self) -> bool:
        """Return whether the data set has the array."""
        return self.load is not None

    def read(self) -> Array:
        """Read the array; raise DataError if the data set lacks it or it is malformed."""
        if self.load is None:
            raise DataError(f'{self.location}: not in this data set')
        return self.load()


@dataclass(frozen=True)
class SourceImage:
    """
    One image of a sample: calibration and labels in memory, pixels and points read when needed.

    The camera frame is x right, y down, z forward, in metres; P projects from it.

    :param id: unique in the data set; names the image's result file and picture, so it holds no
        slash.
    :param camera: name of the camera.
    :param pixels: (H, W, 3) uint8 RGB, rectified.
    :param P: (3, 4) projection, camera frame -> pixels of the image.
    :param labels: labelled objects in the camera frame, box_px in pixels of the image; None for
        an image without labels, empty for a labelled image without objects.
    :param vehicle_T_cam: (4, 4) pose of the camera in the vehicle frame (x forward, y left, z up,
        metres) at the time of the sample. It includes the motion of the vehicle between that time
        and the exposure. None if unknown.
    :param depth: (H, W) float32 dense depth, z in metres in the camera frame, 0 where unknown.
    :param points: (N, 3 or more) LiDAR points, x y z in metres in the camera frame at the time of
        the exposure, then any other values. Completed to dense depth if `depth` is missing.
    :param size_px: (2,) width and height of the image, read without decoding it, so that a run can
        hold labels and P of all images against them at its start. If missing, that start decodes
        every image.
    :param P_location: where P is, for messages, such as 'FILE'.
    :param label_locations: where each label is, for messages, such as 'FILE:3'; may be empty.
    :param stamp_us: time of the exposure, microseconds: an integer, since a float32 of the time
        since 1970 has steps of minutes. None if unknown.
    """

    id: str
    camera: str
    pixels: LazyArray
    P: Array
    labels: Labels | None = None
    vehicle_T_cam: Array | None = None
    depth: LazyArray = LazyArray()
    points: LazyArray = LazyArray()
    size_px: LazyArray = LazyArray()
    P_location: str = ''
    label_locations: tuple[str, ...] = ()
    stamp_us: int | None = None

    def label_location(self, index: int) -> str:
        """Return where a label is, for a message: its file and line, else image and number."""
        if self.label_locations:
            return self.label_locations[index]
        return f'{self.pixels.location or self.id}: object {index + 1}'


class Benchmark(NamedTuple):
    """
    The part of a data set whose own evaluator can judge detections.

    :param root: folder of the data set.
    :param version: name of its version.
    :param split: name of the split.
    """

    root: str
    version: str
    split: str


@dataclass(frozen=True)
class SourceSample:
    """
    The images that the cameras of a vehicle took at one time; at least one.

    :param id: unique in the data set.
    :param images: one of each camera.
    :param labels: labelled objects around the vehicle, whether a camera shows them or not; None
        for a sample without labels, or of a data set whose labels belong to single images.
    :param global_T_vehicle: (4, 4) pose of the vehicle in a frame that stands still, at the time
        of the sample; None if unknown.
    :param stamp_us: time of the sample, microseconds; None if unknown.
    :param benchmark: evaluator that judges the split of this sample; None without.
    """

    id: str
    images: tuple[SourceImage, ...]
    labels: VehicleLabels | None = None
    global_T_vehicle: Array | None = None
    stamp_us: int | None = None
    benchmark: Benchmark | None = None


class FrameSource(Protocol):
    """A data set, or a part of it."""

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the samples, in order; they need not be names of files."""

    def read(self, sample_id: str) -> SourceSample:
        """Read one sample; DataError for missing or malformed calibration or labels."""


class SourceConfig(Protocol):
    """Configuration of a source: the frozen dataclass `config` of a SourceFormat."""


class SourceFormat(NamedTuple):
    """
    A data set format.

    :param config: frozen dataclass; its fields are the keys of a source in a training
        configuration. Except for KITTI's, it has a field `format` whose default is the name of the
        format: checkpoints store the fields of a configuration, not its class.
    :param open_source: (config, ids) -> FrameSource of the samples with these ids, in this order;
        empty ids select all. A split in the config overrides the ids.
    :param from_folder: (folder, labelled) -> config of a data set in one folder, for commands such
        as `stl evaluate`; not `labelled` if labels are not needed.
    """

    config: type[Any]
    open_source: Callable[[Any, tuple[str, ...]], FrameSource]
    from_folder: Callable[[Path, bool], Any]


def read_images(source: FrameSource) -> list[SourceImage]:
    """
    Read the images of all samples, without pixels: all text files of a data set are checked.

    :raises DataError: for missing or malformed calibration or labels.
    """
    return [image for sample_id in source.ids for image in source.read(sample_id).images]


def require_labels(images: Sequence[SourceImage]) -> list[Labels]:
    """Return the labels of each image; raise DataError naming the first image without labels."""
    for image in images:
        if image.labels is None:
            raise DataError(f'{image.pixels.location or image.id}: this image has no labels')
    return [image.labels for image in images if image.labels is not None]


def read_split(path: str | Path) -> tuple[str, ...]:
    """Read a file of sample ids, one a line; raise DataError if it is missing or empty."""
    ids = tuple(read_text(path, 'a list of frame ids').split())
    if not ids:  # a source takes an empty tuple as all samples
        raise DataError(f'{path}: no frame id in this file')
    return ids


def read_text(path: str | Path, expected: str) -> str:
    """
    Read a text file in UTF-8, without its byte order mark.

    :raises DataError: naming the file and the expected content, if it is no such file.
    """
    try:
        return require_exists(Path(path), expected).read_text('utf-8-sig')
    except (UnicodeDecodeError, IsADirectoryError) as err:
        raise DataError(f'{path}: not a text file; expected {expected}') from err
    except OSError as err:
        raise DataError(f'{path}: {err.strerror}; expected {expected}') from err


def explain_unknown_id(sample_id: str, known: Collection[str]) -> str:
    """
    Explain why an id of a split is none of a data set, for a message.

    :param sample_id: the id, which is not in `known`.
    :param known: ids of the data set; at least one.
    """
    bare = PurePath(sample_id).name
    while PurePath(bare).suffix in ID_SUFFIXES and bare not in known:
        bare = PurePath(bare).stem
    if bare != sample_id and bare in known:
        return f'an id is a name without folder and suffix: {bare}'
    if sample_id in ('-1', '0', '1'):
        return 'ids only, one a line: a VOC list has a second column, remove it'
    return f'ids are names such as {min(known)}'


def require_exists(path: Path, expected: str) -> Path:
    """Return a path; DataError names it and the expected content if it does not exist."""
    if not path.exists():
        raise DataError(f'{path}: no such file or folder; expected {expected}')
    return path
