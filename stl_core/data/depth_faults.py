"""
Wrong depth of some objects of a data set, the same in every epoch and run of a seed.

A study of gates asks whether uncertainty shows a student which objects its teacher errs about.
Synthetic scans are exact, so that a teacher hardly errs; here, the depth of a fraction of the
objects is displaced (all of it by one factor) or thinned (few pixels are left). Unlike the
corruption of given_depth.corrupt_objects, which changes from epoch to epoch and averages out, this
is a property of the data: what a teacher learns from, and what it teaches. Kinds and sizes are our
choice. Shapes: N objects, H W image.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from stl_core.data.given_depth import nearest_object
from stl_core.types import Array, ImageObjects

#: Least and greatest relative displacement, nearer or farther with equal probability.
DISPLACEMENT = (0.1, 0.3)
#: Fraction of the pixels that are left of a thinned object's depth.
KEPT_PIXELS = 0.05
#: Separates these random numbers from those of augmentation and given depth.
_STREAM = 0x6661756C


@dataclass(frozen=True)
class DepthFaults:
    """
    Errors of the depth of N objects of an image.

    :param factor: (N,) factor of the depth, above 0; 1 for objects that are not displaced.
    :param thinned: (N,) bool.
    """

    factor: Array
    thinned: Array

    @property
    def given_factor(self) -> Array:
        """(N,) factor of depth that is given without a scan: 0, not given, for thinned objects."""
        return np.where(self.thinned, 0.0, self.factor)


def draw_faults(fraction: float, seed: int, image_id: str, rows: Array) -> DepthFaults:
    """
    Draw which objects of an image have wrong depth: displaced or thinned, as often either.

    :param fraction: probability that an object's depth is wrong.
    :param seed: seed of the run.
    :param image_id: id of the image.
    :param rows: (N,) number of each object among the labels of the image: with seed and id the
        only source of randomness, so that limits on objects change nothing for the others.
    :return: the faults.
    """
    image = zlib.crc32(image_id.encode())
    drawn = [np.random.default_rng([seed, image, int(row), _STREAM]).random(4) for row in rows]
    wrong, kind, sign, size = np.array(drawn).reshape(-1, 4).T
    low, high = DISPLACEMENT
    factor = 1 + np.where(sign < 0.5, -1, 1) * (low + (high - low) * size)
    displaced = (wrong < fraction) & (kind < 0.5)
    return DepthFaults(np.where(displaced, factor, 1.0), (wrong < fraction) & (kind >= 0.5))


def apply_faults(
    depth_m: Array, objects: ImageObjects, faults: DepthFaults, seed: int, image_id: str
) -> Array:
    """
    Make a depth map wrong inside the 2D boxes of objects; the nearest object owns a pixel.

    :param depth_m: (H, W) metres, 0 where unknown; it stays as it is.
    :param objects: N objects, box_px in pixels of the map.
    :param faults: of these objects.
    :param seed: seed of the run.
    :param image_id: id of the image; with the seed, which pixels of thinned objects are left.
    :return: (H, W) float32.
    """
    if not (faults.thinned.any() or np.any(faults.factor != 1)):
        return depth_m
    height, width = depth_m.shape
    owner = nearest_object(objects, (height, width))
    rng = np.random.default_rng([seed, zlib.crc32(image_id.encode()), _STREAM])
    kept = rng.random(depth_m.shape) < KEPT_PIXELS
    factor = np.append(faults.factor, 1.0)[owner]
    removed = np.append(faults.thinned, False)[owner] & ~kept
    return np.where(removed, 0.0, depth_m * factor).astype(np.float32)
