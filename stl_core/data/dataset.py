"""
Frames on disk -> batches: read, augment, prepare, lower, pad.

Every sample's randomness comes from (seed, epoch, index), so a batch is the same whatever the
number of workers and wherever a run was resumed.
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
    Which frames, which objects, which augmentations.

    :param sources: KITTI-layout folders; frames of all are joined in order.
    :param split: a file of frame ids to keep of every source without one of its own; '' keeps all.
    :param min_depth_m: objects nearer than this are not taught, they are background.
    :param max_depth_m: nor are those farther than this,
    :param min_height_px: with a lower 2D box in the picture,
    :param max_occluded: of a higher occlusion level (3 is 'unknown'),
    :param max_truncated: or with a greater share outside the picture.
    :param max_objects: object slots of an image.
    :param augment: how samples vary.
    :param keep_images: decode all images once, at the start, and hold them in memory, 1.4 MB each
        for KITTI's, and 1.9 MB more where depth is seen; on Linux the loading processes share
        them.
        What is loaded is the same.
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
    """One image ready for the network; objects are in its pixels."""

    id: str
    image: Array  # (H, W, 3) uint8 RGB canvas
    P: Array  # (3, 4) of the canvas
    objects: ImageObjects
    depth_m: Array | None = None  # (H, W) float32 canvas, 0 where unknown


class LoadedImages(NamedTuple):
    """What is seen of a frame, as on disk."""

    image: Array  # (H, W, 3) uint8 RGB
    depth_m: Array | None  # (H, W) float32, 0 where unknown; None where nobody wants it


def load_image(files: FrameFiles) -> LoadedImages:
    """Read the image of a frame."""
    return LoadedImages(read_image(files.image_2), None)


def load_image_and_depth(files: FrameFiles) -> LoadedImages:
    """Read the image of a frame, and its depth_2 file, or else complete its scan."""
    image = read_image(files.image_2)
    return LoadedImages(image, depth_maps.load_frame_depth(files, image.shape[1], image.shape[0]))


#: What reads a frame's picture: see_colour or see_depth.
ImageLoader = Callable[[FrameFiles], LoadedImages]


class FrameDataset(Dataset[Sample]):
    """A data set indexed by (epoch, frame)."""

    def __init__(
        self,
        config: DataConfig,
        spec: InputSpec,
        classes: tuple[str, ...],
        seed: int,
        load_images: ImageLoader = load_image,
    ) -> None:
        """
        List the frames and read all text, so that a broken file is told before hours of work.

        :param config: what to read and how to vary it.
        :param spec: the network's input.
        :param classes: the classes taught; other labels are background.
        :param seed: root of all randomness.
        :param load_images: reads what the networks see of a frame.
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
        kept = self.files if config.keep_images else []
        with ThreadPoolExecutor() as pool:
            self._cached_images = list(pool.map(self._load_images, kept))

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return frame key[1] as varied in epoch key[0]."""
        epoch, index = key
        files = self.files[index]
        image, depth_m = (
            self._cached_images[index] if self._cached_images else self._load_images(files)
        )
        rng = np.random.default_rng([self.seed, epoch, index])
        scene = augmentation.AugmentationSample(
            image, self._P[index], self._objects[index], depth_m
        )
        canvas = augmentation.apply_augmentation(
            scene, self.spec, augmentation.draw_augmentation(self.config.augment, rng)
        )
        objects = project_objects(canvas.objects, canvas.P)
        return Sample(files.id, canvas.image, canvas.P, objects, canvas.depth_m)


class ShuffledBatchSampler(Sampler[list[tuple[int, int]]]):
    """
    Batches of (epoch, frame), reshuffled by (seed, epoch); set `epoch` before iterating.

    All batches of an epoch are of one size, give or take one image. What is in them does not
    depend on the number of processes: each process takes its share of every batch.

    :param num_frames: how many there are.
    :param batch_size: images of a batch, at most; a batch of one joins its neighbour.
    :param seed: of the order.
    :param rank_and_world_size: (rank, world), the number of this process and how many there are.
    """

    def __init__(
        self,
        num_frames: int,
        batch_size: int,
        seed: int,
        rank_and_world_size: tuple[int, int] = (0, 1),
    ) -> None:
        """Remember the sizes."""
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
        """Yield this process's share of the batches of this epoch."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_frames)
        rank, world = self.rank_and_world_size
        for batch in np.split(order, split_points(self.num_frames, self.num_batches)[1:-1]):
            start, stop = split_points(len(batch), world)[rank : rank + 2]
            yield [(self.epoch, int(index)) for index in batch[start:stop]]


def median_focal_px(frames: Sequence[FrameFiles], spec: InputSpec) -> float:
    """
    Tell through which lens frames look: the median focal length of some, on the canvas.

    :param frames: at least one; twenty, evenly picked, are looked at.
    :param spec: the canvas.
    :return: pixels of the canvas, before any augmentation.
    """
    picked = {round(place) for place in np.linspace(0, len(frames) - 1, 20)}
    found = []
    for place in picked:
        height, width = read_image(frames[place].image_2).shape[:2]
        P = read_calib(frames[place].calib).P2
        found.append(P[0, 0] * letterbox_affine(width, height, spec)[0, 0])
    return float(np.median(found))


def filter_trainable(labels: Labels, config: DataConfig) -> Labels:
    """Keep the labels that are within the limits of a configuration."""
    z, height = labels.center_m[:, 2], labels.box_px[:, 3] - labels.box_px[:, 1]
    keep = (z > config.min_depth_m) & (z <= config.max_depth_m)
    keep &= (height >= config.min_height_px) & (labels.truncated <= config.max_truncated)
    return labels[keep & (labels.occluded <= config.max_occluded)]


def split_points(count: int, parts: int) -> list[int]:
    """Where to cut `count` things into parts of one size, give or take one."""
    return [count * part // parts for part in range(parts + 1)]


def list_frames(config: DataConfig) -> list[FrameFiles]:
    """List the frames of every source, in order; DataError names what is missing."""
    ids = read_split(config.split) if config.split else ()
    return [frame for source in config.sources for frame in list_kitti_frames(source, ids)]


def collate(samples: list[Sample], slots: int) -> Batch:
    """Stack samples into a batch with `slots` object slots an image."""
    depths_m = [sample.depth_m for sample in samples if sample.depth_m is not None]
    return Batch(
        image=torch.from_numpy(np.stack([sample.image for sample in samples])),
        P=torch.from_numpy(np.stack([sample.P for sample in samples])).float(),
        targets=pad_targets([sample.objects for sample in samples], slots),
        ids=tuple(sample.id for sample in samples),
        depth_m=torch.from_numpy(np.stack(depths_m)) if depths_m else None,
    )


class _Collate:
    """collate with its number of slots, in a form that worker processes can be sent."""

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def __call__(self, samples: list[Sample]) -> Batch:
        return collate(samples, self.slots)


def make_dataloader(
    frames: FrameDataset, sampler: ShuffledBatchSampler, workers: int
) -> DataLoader[Batch]:
    """Load batches, in worker processes where workers > 0."""
    return DataLoader(
        frames,  # type: ignore[arg-type]
        batch_sampler=sampler,
        num_workers=workers,
        # what is kept in memory is then shared, not copied to each: Python 3.14 would not fork
        multiprocessing_context='fork' if workers and sys.platform == 'linux' else None,
        collate_fn=_Collate(frames.config.max_objects),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        # its own, or it would draw on torch's, in the first epoch only: dropout after a resume
        # would then not be what it is without
        generator=torch.Generator(),
    )
