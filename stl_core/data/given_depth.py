"""
Depth that a privileged teacher is given: painted from objects, or read from a scan in their boxes.

Wu et al., DK3D, TPAMI 2025, give the teacher ground-truth depth; Wu et al., ADD, paint it from 3D
boxes where there is no LiDAR. Kinds, see preprocessing.GIVEN_DEPTHS:

- 'objects': every pixel of an object's 2D box is the depth of the object's centre; the middle of
  a box is that of its own object even where a nearer one overlaps it.
- 'scan': the completed scan in the 2D boxes. It is the depth of surfaces, which lie nearer than
  the centres that a detector learns.

Where boxes overlap, the nearest object counts. Pixels outside of all boxes are 0, unknown: the
background says nothing about objects (our choice, so that both kinds give away the same boxes).
Depth is z in true metres, whatever the zoom of the canvas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from stl_core.data import depth_maps
from stl_core.data.checks.label_table import stack_labels
from stl_core.data.checks.taught import ObjectLimits, why_left_out
from stl_core.data.frame_source import DataError, LazyArray, SourceImage
from stl_core.geometry import project_objects
from stl_core.types import Array, ImageObjects

SCAN, OBJECTS = 'scan', 'objects'
#: Which given depth a privileged network is evaluated with: that of its frame, none, or that of
#: the next frame (of the last frame: the first one's).
COMPLETE, ABSENT, OTHER = 'complete', 'absent', 'other'
GIVEN_CHOICES = (COMPLETE, ABSENT, OTHER)
#: What a table says of networks that are given depth, by kind.
PRIVILEGE = {
    OBJECTS: 'reads labels: 2D boxes and depths of the labelled objects',
    SCAN: "reads a scan in the labels' 2D boxes",
}
#: Key of a model's provenance: the limits of the objects whose depth it was given in training.
GIVEN_OBJECTS = 'given_objects'
#: The middle of a box, as a part of its width and height.
_MIDDLE_PART = 0.25
#: Separates the random numbers of given depth from those of other augmentation.
_STREAM = 0x67697665


class GivenDepthNoise(Protocol):
    """Strengths of the corruption of given depth in training; see augmentation.Config."""

    @property
    def given_drop(self) -> float | None:
        """Probability that an object's depth is not given."""

    @property
    def given_depth_jitter(self) -> float | None:
        """Relative standard deviation of an object's given depth."""

    @property
    def given_edge_jitter(self) -> float | None:
        """Standard deviation of each edge of a box, as a fraction of its width or height."""


@dataclass(frozen=True)
class GivenLimits:
    """
    Limits of the objects whose depth is given; fields as those of DataConfig.

    :param min_depth_m: objects are farther than this.
    :param max_depth_m: objects are at most this far.
    :param min_height_px: least height of the 2D box, image pixels.
    :param max_occluded: highest occlusion level.
    :param max_truncated: greatest fraction outside the image.
    :param max_objects: most objects of an image, the nearest ones.
    """

    min_depth_m: float = 0.0
    max_depth_m: float = 65.0
    min_height_px: float = 0.0
    max_occluded: int = 3
    max_truncated: float = 1.0
    max_objects: int = 50

    @classmethod
    def of(cls, limits: ObjectLimits) -> GivenLimits:
        """Return the limits of a data configuration."""
        return cls(**{each.name: getattr(limits, each.name) for each in fields(cls)})

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any]) -> GivenLimits:
        """Return the limits that a model's header stores; the defaults where it stores none."""
        return cls(**provenance.get(GIVEN_OBJECTS, {}))


def paint_object_depth(objects: ImageObjects, size_px: tuple[int, int]) -> Array:
    """
    Paint the depth of every object's centre over its 2D box; the nearest object wins.

    The middles of the boxes, a quarter of their width and height, are painted last, the nearest
    one at the very last: a detector reads an object's depth there, and in a crowd that of an
    object behind another one would be given nowhere.

    :param objects: N objects, box_px in pixels of the map; boxes without area, as those of objects
        outside a canvas, and depths that are not positive are skipped.
    :param size_px: height and width of the map.
    :return: (H, W) float32 metres, 0 outside of all boxes.
    """
    owner = nearest_object(objects, size_px)
    low, high = objects.box_px[:, :2], objects.box_px[:, 2:]
    middle, margin = (low + high) / 2, (high - low) * _MIDDLE_PART / 2
    middles = replace(objects, box_px=np.concatenate([middle - margin, middle + margin], 1))
    middle_owner = nearest_object(middles, size_px)
    owner = np.where(middle_owner >= 0, middle_owner, owner)
    return np.append(objects.depth_m, 0.0)[owner].astype(np.float32)


def scan_in_boxes(depth_m: Array, objects: ImageObjects, factor: Array | None = None) -> Array:
    """
    Keep a depth map inside the objects' 2D boxes.

    :param depth_m: (H, W) metres, 0 where unknown.
    :param objects: N objects, box_px in pixels of the map; as in paint_object_depth.
    :param factor: (N,) factor of the depth in the boxes, the nearest object's; None keeps it.
    :return: (H, W) float32, 0 outside of all boxes and where unknown.
    """
    height, width = depth_m.shape
    owner = nearest_object(objects, (height, width))
    factor = np.ones(len(objects)) if factor is None else factor
    return (depth_m * np.append(factor, 0.0)[owner]).astype(np.float32)


def nearest_object(objects: ImageObjects, size_px: tuple[int, int]) -> Array:
    """
    Return which object each pixel belongs to: the nearest of those whose 2D box it overlaps.

    A pixel spans half a pixel to each side of its centre, so every box with an area on the map has
    at least one pixel.

    :param objects: N objects; see paint_object_depth.
    :param size_px: height and width of the map.
    :return: (H, W) int64 index of the object, -1 for none.
    """
    owner = np.full(size_px, -1, np.int64)
    low, high = objects.box_px[:, :2], objects.box_px[:, 2:]
    usable = np.all(high > low, 1) & (objects.depth_m > 0)
    last = np.array(size_px[::-1]) - 1
    first_px = np.floor(np.clip(low, -1, last + 1) + 0.5).astype(int).clip(0)
    last_px = np.floor(np.clip(high, -1, last + 1) + 0.5).astype(int)
    for row in np.argsort(-objects.depth_m, kind='stable'):  # the nearest is painted last
        if usable[row] and np.all(last_px[row] >= 0):
            (x0, y0), (x1, y1) = first_px[row], last_px[row]
            owner[y0 : y1 + 1, x0 : x1 + 1] = row
    return owner


def give_depth(
    kind: str,
    objects: ImageObjects,
    size_px: tuple[int, int],
    depth_m: Array | None = None,
    factor: Array | None = None,
) -> Array:
    """
    Return the given depth of an image.

    :param kind: SCAN or OBJECTS.
    :param objects: the objects that are taught, box_px in pixels of the map.
    :param size_px: height and width of the map.
    :param depth_m: (H, W) depth map of the image, which SCAN needs.
    :param factor: see scan_in_boxes.
    :return: (H, W) float32 metres, 0 where nothing is given.
    :raises ValueError: for SCAN without a depth map.
    """
    if kind == OBJECTS:
        return paint_object_depth(objects, size_px)
    if depth_m is None:
        raise ValueError("given depth 'scan' needs a depth map, but none was loaded")
    return scan_in_boxes(depth_m, objects, factor)


def corrupt_objects(
    objects: ImageObjects, noise: GivenDepthNoise, key: tuple[int, ...]
) -> tuple[ImageObjects, Array]:
    """
    Drop objects at random and jitter depth and edges, so that a teacher also uses the picture.

    Given depth is exact and gives away the 2D boxes: a teacher that is always given it learns to
    read it off (our choice of remedy; strengths are those of the plans).

    :param objects: N objects.
    :param noise: strengths; with all of them 0 or None the objects stay as they are.
    :param key: of the sample, such as (seed, epoch, index): the only source of randomness. It has
        a stream of its own, so other augmentation does not depend on the strengths, and every
        strength keeps its random numbers whatever the others are.
    :return: the objects with given depth, and (M,) factor by which the depth of each was changed.
    """
    rng = np.random.default_rng([*key, _STREAM])
    count = len(objects)
    kept = rng.random(count) >= (noise.given_drop or 0.0)
    normal = rng.normal(size=(count, 5))
    # log-normal: positive, and as often too far as too near
    factor = np.exp((noise.given_depth_jitter or 0.0) * normal[:, 0])
    box = objects.box_px
    moved = box + (noise.given_edge_jitter or 0.0) * normal[:, 1:] * np.tile(
        box[:, 2:] - box[:, :2], 2
    )
    jittered = replace(objects, box_px=moved, depth_m=objects.depth_m * factor)
    return jittered[kept], factor[kept]


def lazy_given_depth(
    image: SourceImage, kind: str, classes: tuple[str, ...], limits: ObjectLimits
) -> LazyArray:
    """
    Return the given depth of a frame of a data set, from its labels; it is made when it is read.

    :param image: labelled image; for SCAN also with depth or a scan.
    :param kind: SCAN or OBJECTS.
    :param classes: classes of the network; other objects give no depth.
    :param limits: limits of the objects whose depth is given.
    :return: reads (H, W) float32 in pixels of the image; DataError for a frame without labels or,
        for SCAN, without depth.
    """
    load = partial(_frame_given_depth, image, kind, classes, limits)
    return LazyArray(image.pixels.location or image.id, load)


def fit_size(depth_m: Array, size_px: tuple[int, int]) -> Array:
    """Cut a map (h, w) to a height and width, or extend it by 0, at its right and lower edge."""
    fitted = np.zeros(size_px, np.float32)
    height, width = np.minimum(depth_m.shape, size_px)
    fitted[:height, :width] = depth_m[:height, :width]
    return fitted


def no_given_depth() -> Array:
    """Return a map without a pixel; fit_size makes it one on which no depth is given."""
    return np.zeros((0, 0), np.float32)


def _frame_given_depth(
    image: SourceImage, kind: str, classes: tuple[str, ...], limits: ObjectLimits
) -> Array:
    if image.labels is None:
        raise DataError(
            f'{image.pixels.location or image.id}: this image has no labels, from which the model'
            ' is given depth; expected labelled frames'
        )
    taught = why_left_out(stack_labels([image]), limits, classes) == ''
    objects = project_objects(image.labels[taught].to_objects(classes), image.P)
    has_size = image.size_px.exists
    width, height = image.size_px.read() if has_size else image.pixels.read().shape[1::-1]
    size_px = int(height), int(width)
    depth_m = None
    if kind == SCAN:
        depth_m = depth_maps.load_frame_depth(image, size_px[1], size_px[0])
    return give_depth(kind, objects, size_px, depth_m)
