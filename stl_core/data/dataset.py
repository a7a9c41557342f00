"""
Frames on disk -> batches: read, augment, prepare, lower, pad.

Every sample's randomness comes from (seed, epoch, index), so a batch is the same whatever the
number of workers and wherever a run was resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from stl_core.batch import Batch, pad_targets
from stl_core.data.kitti import (
    FrameFiles,
    Source,
    find_frames,
    read_calib,
    read_image,
    read_labels,
    read_split,
)
from stl_core.geometry import flip_objects, flip_P, lower, warp_box, warp_P
from stl_core.images import InputSpec, fit_affine, warp
from stl_core.types import Array, ImageObjects, Objects3D


@dataclass(frozen=True)
class DataConfig:
    """
    Which frames, which objects, which augmentations.

    :param sources: KITTI-layout folders; frames of all are joined in order.
    :param split: a file of frame ids to keep, applied to every source; '' keeps all.
    :param max_depth_m: objects farther than this are not taught.
    :param max_objects: object slots of an image.
    :param flip: probability of a mirrored sample.
    :param colour: strength of random brightness, contrast and saturation, 0 for none.
    :param keep_images: hold decoded images in memory: for small sets that are read often.
    """

    sources: tuple[Source, ...] = ()
    split: str = ''
    max_depth_m: float = 65.0
    max_objects: int = 50
    flip: float = 0.5
    colour: float = 0.0
    keep_images: bool = False


@dataclass(frozen=True)
class Sample:
    """One image ready for the network; objects are in its pixels."""

    id: str
    image: Array  # (H, W, 3) uint8 RGB canvas
    P: Array  # (3, 4) of the canvas
    objects: ImageObjects


class Frames(Dataset[Sample]):
    """A data set indexed by (epoch, frame)."""

    def __init__(self, config: DataConfig, spec: InputSpec, classes: tuple[str, ...], seed: int):
        """
        List the frames and read all text, so that a broken file is told before hours of work.

        :param config: what to read and how to vary it.
        :param spec: the network's input.
        :param classes: the classes taught; other labels are background.
        :param seed: root of all randomness.
        :raises DataError: for a missing or malformed file, naming it.
        """
        self.config, self.spec, self.seed = config, spec, seed
        self.files = list_frames(config)
        self._P = [read_calib(files.calib).P2 for files in self.files]
        self._objects = [
            read_labels(files.label_2).select(classes) if files.label_2 else Objects3D.empty()
            for files in self.files
        ]
        self._images: dict[int, Array] = {}

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return frame key[1] as varied in epoch key[0]."""
        epoch, index = key
        files = self.files[index]
        image = self._images[index] if index in self._images else read_image(files.image_2)
        if self.config.keep_images:
            self._images[index] = image
        rng = np.random.default_rng([self.seed, epoch, index])
        image, P, objects = augment(image, self._P[index], self._objects[index], self.config, rng)
        A = fit_affine(image.shape[1], image.shape[0], self.spec)
        z = objects.center_m[:, 2]
        lowered = lower(objects[(z > 0) & (z <= self.config.max_depth_m)], P)
        prepared = replace(
            lowered,
            center_px=lowered.center_px * A[[0, 1], [0, 1]] + A[:2, 2],
            box_px=warp_box(lowered.box_px, A),
        )
        return Sample(files.id, warp(image, A, self.spec), warp_P(P, A), prepared)


class ShuffledBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, frame), reshuffled by (seed, epoch); set `epoch` before iterating."""

    def __init__(self, frames: int, batch_size: int, seed: int) -> None:
        """Remember the sizes; the last batch may be short, unless it would hold one frame."""
        self.frames, self.batch_size, self.seed, self.epoch = frames, batch_size, seed, 0

    def __len__(self) -> int:
        """Return the number of batches; a last one of one frame joins its neighbour."""
        whole, rest = divmod(self.frames, self.batch_size)
        return max(whole + (rest > 1), 1)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of this epoch."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.frames)
        for batch in range(len(self)):
            start = batch * self.batch_size
            stop = self.frames if batch + 1 == len(self) else start + self.batch_size
            yield [(self.epoch, int(index)) for index in order[start:stop]]


def list_frames(config: DataConfig) -> list[FrameFiles]:
    """List the frames of every source, in order; DataError names what is missing."""
    ids = read_split(config.split) if config.split else ()
    return [frame for source in config.sources for frame in find_frames(source, ids)]


def augment(
    image: Array, P: Array, objects: Objects3D, config: DataConfig, rng: np.random.Generator
) -> tuple[Array, Array, Objects3D]:
    """
    Vary a frame; the pixels, the projection and the objects move together.

    :param image: (H, W, 3) uint8 RGB.
    :param P: (3, 4).
    :param objects: in that image.
    :param config: the strengths.
    :param rng: the only source of chance.
    :return: image, P and objects, new.
    """
    if rng.random() < config.flip:
        width = image.shape[1]
        image = np.ascontiguousarray(image[:, ::-1])
        P, objects = flip_P(P, width), flip_objects(objects, width)
    if config.colour > 0:
        image = jitter(image, config.colour, rng)
    return image, P, objects


def jitter(image: Array, strength: float, rng: np.random.Generator) -> Array:
    """
    Scale brightness, contrast and saturation by factors in 1 -+ strength.

    :param image: (H, W, 3) uint8 RGB.
    :param strength: 0 to 1.
    :param rng: source of chance.
    :return: (H, W, 3) uint8 RGB.
    """
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    image = cv2.addWeighted(image, saturation, grey, 1 - saturation, 0)
    level = (1 - contrast) * float(grey.mean())
    return cv2.convertScaleAbs(image, alpha=contrast * brightness, beta=max(level * brightness, 0))


def collate(samples: list[Sample], slots: int) -> Batch:
    """Stack samples into a batch with `slots` object slots an image."""
    return Batch(
        image=torch.from_numpy(np.stack([sample.image for sample in samples])),
        P=torch.from_numpy(np.stack([sample.P for sample in samples])).float(),
        targets=pad_targets([sample.objects for sample in samples], slots),
        ids=tuple(sample.id for sample in samples),
    )


class _Collate:
    """collate with its number of slots, in a form that worker processes can be sent."""

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def __call__(self, samples: list[Sample]) -> Batch:
        return collate(samples, self.slots)


def batches(frames: Frames, sampler: ShuffledBatches, workers: int) -> DataLoader[Batch]:
    """Load batches, in worker processes where workers > 0."""
    return DataLoader(
        frames,  # type: ignore[arg-type]
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_Collate(frames.config.max_objects),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )
