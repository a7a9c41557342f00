"""
Dataset, batch sampler and DataLoader: read frames, augment, project the objects, pad, collate.

Every sample's randomness comes from (seed, epoch, index), so a batch does not depend on the
number of workers or on where a run was resumed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from stl_core.data import augmentation, depth_maps
from stl_core.data.sources.kitti import (
    FrameFiles,
    KittiFolders,
    list_kitti_frames,
    read_calib,
    read_image,
    read_labels,
    read_split,
)
from stl_core.geometry import project_objects
from stl_core.preprocessing import InputSpec, letterbox_affine
from stl_core.tensors.batch import Batch, pad_targets
from stl_core.types import Array, ImageObjects, Labels, Objects3D


@dataclass(frozen=True)
class DataConfig:
    """
    Frames, object limits and augmentation of a data set.

    Objects outside the limits are not training targets; they count as background.

    :param sources: KITTI-layout folders; their frames are concatenated in order.
    :param split: file of frame ids to keep, for every source without its own split; '' keeps all.
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
    """

    sources: tuple[KittiFolders, ...] = ()
    split: str = ''
    min_depth_m: float = 0.0
    max_depth_m: float = 65.0
    min_height_px: float = 0.0
    max_occluded: int = 3
    max_truncated: float = 1.0
    max_objects: int = 50
    augment: augmentation.Config = field(default_factory=augmentation.Config)
    keep_images: bool = False


@dataclass(frozen=True)
class Sample:
    """One augmented image, ready for the network; objects are in its pixels."""

    id: str
    image: Array  # (H, W, 3) uint8 RGB canvas
    P: Array  # (3, 4) projection matrix of the canvas
    objects: ImageObjects
    depth_m: Array | None = None  # (H, W) float32 canvas, 0 where unknown


class LoadedImages(NamedTuple):
    """Image and, for a depth teacher, depth map of a frame, before augmentation."""

    image: Array  # (H, W, 3) uint8 RGB
    depth_m: Array | None  # (H, W) float32, 0 where unknown; None if unused


def load_image(files: FrameFiles) -> LoadedImages:
    """Load the image of a frame, without depth."""
    return LoadedImages(read_image(files.image_2), None)


def load_image_and_depth(files: FrameFiles) -> LoadedImages:
    """Load the image of a frame and its depth: the depth_2 file, else the completed scan."""
    image = read_image(files.image_2)
    return LoadedImages(image, depth_maps.load_frame_depth(files, image.shape[1], image.shape[0]))


#: Loads the images of a frame: load_image or load_image_and_depth.
ImageLoader = Callable[[FrameFiles], LoadedImages]


class FrameDataset(Dataset[Sample]):
    """Augmented samples, indexed by (epoch, frame)."""

    def __init__(
        self,
        config: DataConfig,
        spec: InputSpec,
        classes: tuple[str, ...],
        seed: int,
        load_images: ImageLoader = load_image,
    ) -> None:
        """
        List the frames and read all calib and label files, so a broken file fails at the start.

        :param config: frames to read, object limits, augmentation.
        :param spec: the network's input size.
        :param classes: the classes to train; other labels are background.
        :param seed: root of all randomness.
        :param load_images: loads the images of a frame.
        :raises DataError: for a missing or malformed file, naming it.
        """
        self.config, self.spec, self.seed = config, spec, seed
        self._load_images = load_images
        self.files = list_frames(config)
        self._P = [read_calib(files.calib).P2 for files in self.files]
        self._objects = [
            filter_trainable(read_labels(files.label_2), config).to_objects(classes)
            if files.label_2
            else Objects3D.empty()
            for files in self.files
        ]
        cached_files = self.files if config.keep_images else []
        with ThreadPoolExecutor() as pool:
            self._cached_images = list(pool.map(self._load_images, cached_files))

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return frame key[1] with the augmentation of epoch key[0]."""
        epoch, index = key
        files = self.files[index]
        image, depth_m = (
            self._cached_images[index] if self._cached_images else self._load_images(files)
        )
        rng = np.random.default_rng([self.seed, epoch, index])
        sample = augmentation.AugmentationSample(
            image, self._P[index], self._objects[index], depth_m
        )
        canvas = augmentation.apply_augmentation(
            sample, self.spec, augmentation.draw_augmentation(self.config.augment, rng)
        )
        objects = project_objects(canvas.objects, canvas.P)
        return Sample(files.id, canvas.image, canvas.P, objects, canvas.depth_m)


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


def median_focal_px(frames: Sequence[FrameFiles], spec: InputSpec) -> float:
    """
    Return the median focal length of up to twenty frames, scaled to the canvas.

    :param frames: at least one frame; twenty at even steps are read.
    :param spec: the canvas.
    :return: focal length in canvas pixels, before any augmentation.
    """
    indices = {round(index) for index in np.linspace(0, len(frames) - 1, 20)}
    focal_px = []
    for index in indices:
        height, width = read_image(frames[index].image_2).shape[:2]
        P = read_calib(frames[index].calib).P2
        focal_px.append(P[0, 0] * letterbox_affine(width, height, spec)[0, 0])
    return float(np.median(focal_px))


def filter_trainable(labels: Labels, config: DataConfig) -> Labels:
    """Return the labels within the limits of a configuration: the training targets."""
    z, height = labels.center_m[:, 2], labels.box_px[:, 3] - labels.box_px[:, 1]
    keep = (z > config.min_depth_m) & (z <= config.max_depth_m)
    keep &= (height >= config.min_height_px) & (labels.truncated <= config.max_truncated)
    return labels[keep & (labels.occluded <= config.max_occluded)]


def split_points(count: int, parts: int) -> list[int]:
    """Return the parts + 1 indices that split `count` items into parts of nearly equal size."""
    return [count * part // parts for part in range(parts + 1)]


def list_frames(config: DataConfig) -> list[FrameFiles]:
    """List the frames of every source, in order; raise DataError naming a missing file."""
    ids = read_split(config.split) if config.split else ()
    return [frame for source in config.sources for frame in list_kitti_frames(source, ids)]


def collate(samples: list[Sample], slots: int) -> Batch:
    """Stack samples into a batch with `slots` object slots per image."""
    depths_m = [sample.depth_m for sample in samples if sample.depth_m is not None]
    return Batch(
        image=torch.from_numpy(np.stack([sample.image for sample in samples])),
        P=torch.from_numpy(np.stack([sample.P for sample in samples])).float(),
        targets=pad_targets([sample.objects for sample in samples], slots),
        ids=tuple(sample.id for sample in samples),
        depth_m=torch.from_numpy(np.stack(depths_m)) if depths_m else None,
    )


class _Collate:
    """collate with a fixed number of slots; picklable, for worker processes."""

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def __call__(self, samples: list[Sample]) -> Batch:
        return collate(samples, self.slots)


def make_dataloader(
    frames: FrameDataset, sampler: ShuffledBatchSampler, workers: int
) -> DataLoader[Batch]:
    """Build the DataLoader; it loads in worker processes if workers > 0."""
    return DataLoader(
        frames,  # type: ignore[arg-type]
        batch_sampler=sampler,
        num_workers=workers,
        # fork shares images kept in memory; Python 3.14's default start method would copy them
        multiprocessing_context='fork' if workers and sys.platform == 'linux' else None,
        collate_fn=_Collate(frames.config.max_objects),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        # a separate generator: the loader would draw from torch's global one in the first epoch
        # only, and dropout after a resume would differ from an uninterrupted run
        generator=torch.Generator(),
    )
