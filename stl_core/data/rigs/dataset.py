"""
Dataset of samples of several cameras: read, augment pictures and ground, pad, collate.

As in data.dataset, a sample's randomness comes from (seed, epoch, index).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stl_core.data import depth_maps, given_depth
from stl_core.data.augmentation import AugmentationParams, draw_augmentation
from stl_core.data.checks.label_table import stack_labels
from stl_core.data.checks.taught import why_left_out
from stl_core.data.dataset import (
    DataConfig,
    ImageLoader,
    list_samples_by_source,
    load_image,
)
from stl_core.data.frame_source import DataError, SourceImage
from stl_core.data.rigs import targets
from stl_core.data.rigs.augmentation import (
    GroundConfig,
    ViewCanvas,
    augment_view,
    draw_ground,
    draw_present,
    transform_objects,
)
from stl_core.data.rigs.sample import camera_names, camera_poses, sample_labels
from stl_core.geometry import project_objects
from stl_core.preprocessing import InputSpec
from stl_core.tensors.batch import Batch
from stl_core.tensors.rig import Rig, pad_rig_targets
from stl_core.types import Array, Objects3D
from stl_core.vehicle_types import VehicleObjects

#: Depth that supervises a student, see LiftSplatConfig.depth_supervision.
NONE, SCAN, OBJECTS = 'none', 'scan', 'objects'


@dataclass(frozen=True)
class RigDataConfig:
    """
    What a multi-view run needs of its samples beside pictures and objects.

    :param attributes: names of the attributes that are learnt.
    :param depth_supervision: NONE, SCAN or OBJECTS.
    :param given: kind of given depth, see InputSpec; '' for none.
    """

    attributes: tuple[str, ...] = ()
    depth_supervision: str = NONE
    given: str = ''


@dataclass(frozen=True)
class ViewSample:
    """One picture of a sample on the canvas; all maps (H, W) float32, metres, 0 where unknown."""

    image: Array  # (H, W, 3) uint8 RGB
    P: Array  # (3, 4) projection of the canvas
    present: bool
    depth_m: Array | None = None  # the input of a depth teacher
    given_m: Array | None = None  # what a privileged network is given
    supervised_m: Array | None = None  # what depth supervision teaches


@dataclass(frozen=True)
class RigSample:
    """One augmented sample: a view per camera, their poses (V, 4, 4), and objects."""

    id: str
    views: tuple[ViewSample, ...]
    vehicle_T_cam: Array
    objects: VehicleObjects


class RigDataset(Dataset[RigSample]):
    """Augmented samples of several cameras, indexed by (epoch, sample)."""

    def __init__(
        self,
        config: DataConfig,
        spec: InputSpec,
        classes: tuple[str, ...],
        seed: int,
        load_images: ImageLoader = load_image,
        needs: RigDataConfig = RigDataConfig(),
    ) -> None:
        """
        List the samples and read calibrations and labels, so a broken file fails at the start.

        :param config: samples to read, object limits, augmentation.
        :param spec: the network's input size.
        :param classes: the classes to train; other labels are background.
        :param seed: root of all randomness.
        :param load_images: loads the images of a frame.
        :param needs: depth and attributes that the run needs.
        :raises DataError: for a missing or malformed file, naming it, a sample without labels or a
            pose of a camera, or an augmentation that is for single images alone.
        """
        if config.augment.window:
            raise DataError('augment.window: for single images; leave it out')
        self.config, self.spec, self.seed, self.needs = config, spec, seed, needs
        self._load_images = load_images
        by_source = list_samples_by_source(config)
        self.samples = [sample for samples in by_source for sample in samples]
        self.images_by_source = [[i for s in each for i in s.images] for each in by_source]
        #: All images, in the order of the samples.
        self.images = [image for images in self.images_by_source for image in images]
        #: Cameras of the rig, in the order of the views of a sample.
        self.cameras = camera_names(self.samples)
        table = stack_labels(self.images)
        #: Why each label of each image is no target for depth, see taught.why_left_out.
        self.left_out = table.split(why_left_out(table, config, classes))
        self._in_image = {
            image.id: image.labels[why == ''].to_objects(classes)
            for image, why in zip(self.images, self.left_out, strict=True)
            if image.labels is not None
        }
        self._poses = [camera_poses(sample) for sample in self.samples]
        #: Taught objects around the vehicle by class, and reasons for leaving out others.
        self.counts: dict[str, Any] = {}
        self._objects = self._choose_objects(classes)
        cached = self.images if config.keep_images else []
        with ThreadPoolExecutor() as pool:
            loaded = pool.map(self._load_images, cached)
            self._cached = {each.id: kept for each, kept in zip(cached, loaded, strict=True)}

    def _choose_objects(self, classes: tuple[str, ...]) -> list[VehicleObjects]:
        """Return the taught objects of each sample, and count them."""
        labels = [sample_labels(sample) for sample in self.samples]
        reasons = [targets.why_left_out(each, self.config, classes) for each in labels]
        self.counts = targets.count_taught(labels, reasons, classes)
        return [
            each[why == ''].to_objects(classes, self.needs.attributes)
            for each, why in zip(labels, reasons, strict=True)
        ]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> RigSample:
        """Return sample key[1] with the augmentation of epoch key[0]."""
        epoch, index = key
        sample = self.samples[index]
        rng = np.random.default_rng([self.seed, epoch, index])
        config = self.config.ground or GroundConfig()
        ground = draw_ground(config, rng)
        kept = draw_present(config, len(sample.images), rng)
        poses, views = np.tile(np.eye(4), (len(self.cameras), 1, 1)), []
        for number, camera in enumerate(self.cameras):
            params = draw_augmentation(self.config.augment, rng)
            at = [image.camera for image in sample.images]
            row = at.index(camera) if camera in at else None
            if row is None or not kept[row]:
                views.append(self._empty_view())
                continue
            poses[number] = ground.matrix @ self._poses[index][row]
            view_key = (self.seed, epoch, index, number)
            views.append(self._load_view(sample.images[row], view_key, params))
        objects = transform_objects(self._objects[index], ground)
        return RigSample(sample.id, tuple(views), poses, objects)

    def collate(self, samples: list[RigSample]) -> Batch:
        """Stack samples into a batch: view after view of one sample, then those of the next."""
        views = [view for sample in samples for view in sample.views]
        poses = np.concatenate([sample.vehicle_T_cam for sample in samples])
        present = torch.tensor([view.present for view in views])
        supervised_m = _stack([view.supervised_m for view in views])
        if supervised_m is not None:
            supervised_m = supervised_m.unflatten(0, (len(samples), len(self.cameras)))
        return Batch(
            image=torch.from_numpy(np.stack([view.image for view in views])),
            P=torch.from_numpy(np.stack([view.P for view in views])).float(),
            targets=pad_rig_targets(
                [sample.objects for sample in samples], self.config.max_objects, supervised_m
            ),
            ids=tuple(sample.id for sample in samples),
            depth_m=_stack([view.depth_m for view in views]),
            given_depth_m=_stack([view.given_m for view in views]),
            rig=Rig(len(self.cameras), torch.from_numpy(poses).float(), present),
        )

    def _load_view(
        self, image: SourceImage, key: tuple[int, ...], params: AugmentationParams
    ) -> ViewSample:
        """Load and augment a picture; `key` is that of the randomness of its given depth."""
        pixels, depth_m = self._cached[image.id] if self._cached else self._load_images(image)
        objects = self._in_image.get(image.id, Objects3D.empty())
        view = ViewCanvas(pixels, image.P, objects, depth_m)
        canvas = augment_view(view, self.spec, params)
        in_image = project_objects(canvas.objects, canvas.P)
        size_px = (self.spec.height_px, self.spec.width_px)
        given_m = None
        if self.needs.given:
            corrupted, factor = given_depth.corrupt_objects(in_image, self.config.augment, key)
            given_m = given_depth.give_depth(
                self.needs.given, corrupted, size_px, canvas.depth_m, factor
            )
        supervised_m = None
        if self.needs.depth_supervision == OBJECTS:
            supervised_m = given_depth.paint_object_depth(in_image, size_px)
        elif self.needs.depth_supervision == SCAN:
            supervised_m = scan_on_canvas(image, canvas.P, size_px)
        return ViewSample(canvas.image, canvas.P, True, canvas.depth_m, given_m, supervised_m)

    def _empty_view(self) -> ViewSample:
        """Return the view of a camera without picture: nothing of it is used."""
        size_px = (self.spec.height_px, self.spec.width_px)
        blank, needs = np.zeros(size_px, np.float32), self.needs
        return ViewSample(
            image=np.zeros((*size_px, 3), np.uint8),
            P=np.eye(3, 4),
            present=False,
            depth_m=blank if self._load_images is not load_image else None,
            given_m=blank if needs.given else None,
            supervised_m=blank if needs.depth_supervision != NONE else None,
        )


def scan_on_canvas(image: SourceImage, P: Array, size_px: tuple[int, int]) -> Array:
    """
    Return the depth of the LiDAR points that the canvas of an image shows.

    The points themselves, not a completed map: a student should not learn depth that was made up.

    :param image: the image, with points.
    :param P: (3, 4) projection of the canvas.
    :param size_px: height and width of the canvas.
    :return: (H, W) float32 z in metres, 0 where no point is.
    :raises DataError: for an image without points.
    """
    if not image.points.exists:
        where = image.points.location or image.pixels.location or image.id
        raise DataError(
            f'{where}: no LiDAR points of this image; depth_supervision: scan needs them, objects'
            ' and none do not'
        )
    points_m = image.points.read()[:, :3]
    return depth_maps.sparse_depth(points_m, P, size_px[1], size_px[0])


def _stack(maps: Sequence[Array | None]) -> Tensor | None:
    """Stack maps (H, W) of images; None if they are None."""
    found = [each for each in maps if each is not None]
    return torch.from_numpy(np.stack(found)) if found else None
