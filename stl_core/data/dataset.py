"""
Dataset, batch sampler and DataLoader: read frames, augment, project the objects, pad, collate.

Every sample's randomness comes from (seed, epoch, index), so a batch does not depend on the
number of workers or on where a run was resumed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from stl_core.data import augmentation, depth_faults, depth_maps, given_depth
from stl_core.data.checks.label_table import stack_labels
from stl_core.data.checks.taught import why_left_out
from stl_core.data.depth_faults import DepthFaults
from stl_core.data.frame_source import SourceConfig, SourceImage, SourceSample, read_split
from stl_core.data.rigs.augmentation import GroundConfig
from stl_core.data.sources import open_source
from stl_core.geometry import project_objects
from stl_core.preprocessing import InputSpec, letterbox_affine
from stl_core.tensors.batch import Batch, pad_targets
from stl_core.types import Array, ImageObjects, Objects3D


@dataclass(frozen=True)
class DataConfig:
    """
    Frames, object limits and augmentation of a data set.

    Objects outside the limits are not training targets; they count as background.

    :param sources: data sets; their frames are concatenated in order. Each has the keys of its
        `format`, a name in data.sources.SOURCES; without a format, the folders of KITTI's layout.
    :param split: file of sample ids to keep, for every source without its own split; '' keeps all.
    :param min_depth_m: targets are farther than this.
    :param max_depth_m: targets are at most this far.
    :param min_height_px: least height of a target's 2D box, image pixels.
    :param max_occluded: highest occlusion level of a target (3 is 'unknown').
    :param max_truncated: greatest fraction of a target outside the image.
    :param max_objects: object slots of an image.
    :param augment: augmentation strengths.
    :param keep_images: decode all images once, at the start, and keep them in memory: 1.4 MB each
        for KITTI, plus 1.9 MB each if depth is loaded; on Linux the loader processes share them.
        The samples are the same either way.
    :param ground: augmentation of the ground, for detectors of several cameras alone.
    """

    sources: tuple[SourceConfig, ...] = ()
    split: str = ''
    min_depth_m: float = 0.0
    max_depth_m: float = 65.0
    min_height_px: float = 0.0
    max_occluded: int = 3
    max_truncated: float = 1.0
    max_objects: int = 50
    augment: augmentation.Config = field(default_factory=augmentation.Config)
    keep_images: bool = False
    ground: GroundConfig | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for limits that no object can fulfil."""
        if not self.max_depth_m > max(self.min_depth_m, 0.0):
            raise ValueError(
                f'max_depth_m: expected more than 0 and than min_depth_m ({self.min_depth_m}),'
                f' got {self.max_depth_m}'
            )
        if not 0 <= self.max_truncated <= 1:
            raise ValueError(
                f'max_truncated: expected a fraction, 0 to 1, got {self.max_truncated}'
            )
        for name, least in (('min_height_px', 0), ('max_occluded', 0), ('max_objects', 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f'{name}: expected at least {least}, got {getattr(self, name)}')


@dataclass(frozen=True)
class Sample:
    """One augmented image, ready for the network; objects are in its pixels."""

    id: str
    image: Array  # (H, W, 3) uint8 RGB canvas
    P: Array  # (3, 4) projection matrix of the canvas
    objects: ImageObjects
    depth_m: Array | None = None  # (H, W) float32 canvas, 0 where unknown
    given_depth_m: Array | None = None  # (H, W) float32 canvas, 0 where nothing is given


class LoadedImages(NamedTuple):
    """Image and, for a depth teacher, depth map of a frame, before augmentation."""

    image: Array  # (H, W, 3) uint8 RGB
    depth_m: Array | None  # (H, W) float32, 0 where unknown; None if unused


def load_image(image: SourceImage) -> LoadedImages:
    """Load the image of a frame, without depth."""
    return LoadedImages(image.pixels.read(), None)


def load_image_and_depth(image: SourceImage) -> LoadedImages:
    """Load the image of a frame and its depth: the stored depth, else the completed scan."""
    pixels = image.pixels.read()
    height, width = pixels.shape[:2]
    return LoadedImages(pixels, depth_maps.load_frame_depth(image, width, height))


#: Loads the images of a frame: load_image or load_image_and_depth.
ImageLoader = Callable[[SourceImage], LoadedImages]


class FrameDataset(Dataset[Sample]):
    """Augmented samples, indexed by (epoch, frame)."""

    def __init__(
        self,
        config: DataConfig,
        spec: InputSpec,
        classes: tuple[str, ...],
        seed: int,
        load_images: ImageLoader = load_image,
        given: str = '',
    ) -> None:
        """
        List the frames and read calibrations and labels, so a broken file fails at the start.

        An image without labels has no objects; training rejects it, see trainer.fit.

        :param config: frames to read, object limits, augmentation.
        :param spec: the network's input size.
        :param classes: the classes to train; other labels are background.
        :param seed: root of all randomness.
        :param load_images: loads the images of a frame.
        :param given: kind of given depth that a network of the run needs, see InputSpec; '' paints
            none. Only objects that are targets give depth.
        :raises DataError: for a missing or malformed file, naming it.
        """
        self.config, self.spec, self.seed, self.given = config, spec, seed, given
        self._load_images = load_images
        self.images_by_source = list_frames_by_source(config)
        self.images = [image for images in self.images_by_source for image in images]
        table = stack_labels(self.images)
        #: Why each label of each image is no target, see taught.why_left_out.
        self.left_out = table.split(why_left_out(table, config, classes))
        self._objects = [
            image.labels[reasons == ''].to_objects(classes)
            if image.labels is not None
            else Objects3D.empty()
            for image, reasons in zip(self.images, self.left_out, strict=True)
        ]
        self._faults = self._draw_faults()
        cached = self.images if config.keep_images else []
        with ThreadPoolExecutor() as pool:
            self._cached_images = list(pool.map(self._load_images, cached))

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return frame key[1] with the augmentation of epoch key[0]."""
        epoch, index = key
        image = self.images[index]
        pixels, depth_m = (
            self._cached_images[index] if self._cached_images else self._load_images(image)
        )
        rng = np.random.default_rng([self.seed, epoch, index])
        sample = augmentation.AugmentationSample(pixels, image.P, self._objects[index], depth_m)
        sample = self._with_faults(sample, index)
        canvas = augmentation.apply_augmentation(
            sample, self.spec, augmentation.draw_augmentation(self.config.augment, rng)
        )
        objects = project_objects(canvas.objects, canvas.P)
        given_m = self._give_depth(key, objects, canvas) if self.given else None
        return Sample(image.id, canvas.image, canvas.P, objects, canvas.depth_m, given_m)

    def collate(self, samples: list[Sample]) -> Batch:
        """Stack samples into a batch with the configured number of object slots."""
        return collate(samples, self.config.max_objects)

    def _give_depth(
        self,
        key: tuple[int, int],
        objects: ImageObjects,
        canvas: augmentation.AugmentationSample,
    ) -> Array:
        """Paint the given depth after all augmentation, so that it fits the targets."""
        size_px = self.spec.height_px, self.spec.width_px
        if canvas.given_factor is not None and self.given == given_depth.OBJECTS:
            wrong = replace(objects, depth_m=objects.depth_m * canvas.given_factor)
            objects = wrong[canvas.given_factor > 0]
        objects, factor = given_depth.corrupt_objects(
            objects, self.config.augment, (self.seed, *key)
        )
        return given_depth.give_depth(self.given, objects, size_px, canvas.depth_m, factor)

    def _draw_faults(self) -> list[DepthFaults]:
        """Draw the wrong depth of every image; [] without."""
        fraction = self.config.augment.wrong_depth
        if not fraction:
            return []
        return [
            depth_faults.draw_faults(
                fraction, self.seed, image.id, np.flatnonzero(np.asarray(reasons) == '')
            )
            for image, reasons in zip(self.images, self.left_out, strict=True)
        ]

    def _with_faults(
        self, sample: augmentation.AugmentationSample, index: int
    ) -> augmentation.AugmentationSample:
        """Make the depth of some objects of a frame wrong, before any augmentation."""
        if not self._faults:
            return sample
        faults, depth_m = self._faults[index], sample.depth_m
        if depth_m is not None:
            objects = project_objects(sample.objects, sample.P)
            depth_m = depth_faults.apply_faults(
                depth_m, objects, faults, self.seed, self.images[index].id
            )
        return replace(sample, depth_m=depth_m, given_factor=faults.given_factor)


class ShuffledBatchSampler(Sampler[list[tuple[int, int]]]):
    """
    Batches of (epoch, frame), reshuffled by (seed, epoch); set `epoch` before iterating.

    Batch sizes of an epoch differ by at most one image. The content of a batch does not depend on
    the number of processes: each process takes its part of every batch.

    :param num_frames: number of frames in the data set.
    :param batch_size: most images in a batch; a remainder of one image joins another batch.
    :param seed: seed of the shuffling.
    :param rank_and_world_size: index of this process and number of processes.
    """

    def __init__(
        self,
        num_frames: int,
        batch_size: int,
        seed: int,
        rank_and_world_size: tuple[int, int] = (0, 1),
    ) -> None:
        """Compute the number of batches per epoch."""
        self.num_frames, self.seed, self.rank_and_world_size, self.epoch = (
            num_frames,
            seed,
            rank_and_world_size,
            0,
        )
        fewest, most = -(-num_frames // batch_size), num_frames // min(batch_size, 2)
        self.num_batches = max(min(fewest, most), 1)

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield this process's part of each batch of the epoch."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_frames)
        rank, world = self.rank_and_world_size
        for batch in np.split(order, split_points(self.num_frames, self.num_batches)[1:-1]):
            start, stop = split_points(len(batch), world)[rank : rank + 2]
            yield [(self.epoch, int(index)) for index in batch[start:stop]]


def median_focal_px(images: Sequence[SourceImage], spec: InputSpec) -> float:
    """
    Return the median focal length of up to twenty images, scaled to the canvas.

    :param images: at least one image; twenty at even steps are read.
    :param spec: the canvas.
    :return: focal length in canvas pixels, before any augmentation.
    """
    indices = {round(index) for index in np.linspace(0, len(images) - 1, 20)}
    focal_px = []
    for index in indices:
        height, width = images[index].pixels.read().shape[:2]
        focal_px.append(images[index].P[0, 0] * letterbox_affine(width, height, spec)[0, 0])
    return float(np.median(focal_px))


def split_points(count: int, parts: int) -> list[int]:
    """Return the parts + 1 indices that split `count` items into parts of nearly equal size."""
    return [count * part // parts for part in range(parts + 1)]


def list_frames(config: DataConfig) -> list[SourceImage]:
    """List the images of every source, in order; DataError names a missing or malformed file."""
    return [image for images in list_frames_by_source(config) for image in images]


def list_frames_by_source(config: DataConfig) -> list[list[SourceImage]]:
    """List the images of each source; DataError names a missing or malformed file."""
    return [
        [image for sample in samples for image in sample.images]
        for samples in list_samples_by_source(config)
    ]


def list_samples_by_source(config: DataConfig) -> list[list[SourceSample]]:
    """List the samples of each source; DataError names a missing or malformed file."""
    ids = read_split(config.split) if config.split else ()
    sources = [open_source(each, ids) for each in config.sources]
    return [[source.read(sample_id) for sample_id in source.ids] for source in sources]


def collate(samples: list[Sample], slots: int) -> Batch:
    """Stack samples into a batch with `slots` object slots per image."""
    depths_m = [sample.depth_m for sample in samples if sample.depth_m is not None]
    givens_m = [sample.given_depth_m for sample in samples if sample.given_depth_m is not None]
    return Batch(
        image=torch.from_numpy(np.stack([sample.image for sample in samples])),
        P=torch.from_numpy(np.stack([sample.P for sample in samples])).float(),
        targets=pad_targets([sample.objects for sample in samples], slots),
        ids=tuple(sample.id for sample in samples),
        depth_m=torch.from_numpy(np.stack(depths_m)) if depths_m else None,
        given_depth_m=torch.from_numpy(np.stack(givens_m)) if givens_m else None,
    )


class TrainingSet(Protocol):
    """What a DataLoader needs of a dataset: FrameDataset, or one of several cameras."""

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """Return an augmented sample by epoch and index."""

    def collate(self, samples: list[Any]) -> Batch:
        """Stack samples into a batch."""


def make_dataloader(
    frames: TrainingSet, sampler: ShuffledBatchSampler, workers: int
) -> DataLoader[Batch]:
    """Build the DataLoader; it loads in worker processes if workers > 0."""
    return DataLoader(
        frames,  # type: ignore[arg-type]
        batch_sampler=sampler,
        num_workers=workers,
        # fork shares images kept in memory; Python 3.14's default start method would copy them
        multiprocessing_context='fork' if workers and sys.platform == 'linux' else None,
        collate_fn=frames.collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        # a separate generator: the loader would draw from torch's global one in the first epoch
        # only, and dropout after a resume would differ from an uninterrupted run
        generator=torch.Generator(),
    )
