"""
Feature levels: a network's maps, the plane each of them lies in, and where objects are on it.

Losses between feature maps ask the plane of a map for the cells of an object; they need not know
whether a cell is a number of pixels or of metres.
Shapes: B batch, N object slots, K valid objects, C channels, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from stl_core.tensors import regions
from stl_core.tensors.batch import Targets


class FeaturePlane(Protocol):
    """The plane of a feature map: which cells belong to an object."""

    def box_cells(self, targets: Targets, grid: Tensor) -> Tensor:
        """Return the cells that each object covers on `grid` (B, C, h, w): (B, N, h, w) bool."""

    def object_cells(self, targets: Targets, grid: Tensor, around: float = 0.0) -> Tensor:
        """Return the cells of each object, the nearest one's where they overlap, (B, N, h, w)."""

    def nearest_object_map(self, targets: Targets, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, h, w) slot of the nearest object in a cell, and whether there is one."""

    def object_rois(self, targets: Targets, size_px: tuple[int, int], indices: Tensor) -> Tensor:
        """Return (K, 5) image index and box in cells of (K,) regions.valid_indices."""


@dataclass(frozen=True)
class ImagePlane:
    """
    The plane of the image: a cell is a square of `stride` network pixels; see regions.

    :param stride: network pixels per cell.
    """

    stride: float

    def box_cells(self, targets: Targets, grid: Tensor) -> Tensor:
        """Return the cells that each 2D box covers, see regions.box_cells."""
        return regions.box_cells(targets, self.stride, *grid.shape[-2:])

    def object_cells(self, targets: Targets, grid: Tensor, around: float = 0.0) -> Tensor:
        """Return the cells of each object, see regions.object_cells."""
        h, w = grid.shape[-2:]
        return regions.object_cells(targets, self.stride, h, w, around)

    def nearest_object_map(self, targets: Targets, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the owner of each cell, see regions.nearest_object_map."""
        return regions.nearest_object_map(targets, self.stride, *grid.shape[-2:])

    def object_rois(self, targets: Targets, size_px: tuple[int, int], indices: Tensor) -> Tensor:
        """Return 2D boxes, clipped to the canvas, in cells, see regions.object_rois."""
        rois = regions.object_rois(targets, size_px, indices)
        rois[:, 1:] /= self.stride
        return rois


@dataclass(frozen=True)
class LevelSpec:
    """
    A map that a detector returns, without its values.

    :param name: name within the detector: 'neck', the input of the heads; 'c8', 'c16', 'c32', the
        backbone's maps at these strides; or the detector's name of another map.
    :param channels: C.
    :param plane: plane of the map.
    :param after_given_depth: whether depth that a privileged teacher is given reaches this map. A
        map upstream shows the same in teacher and student: there is nothing to transfer.
    """

    name: str
    channels: int
    plane: FeaturePlane
    after_given_depth: bool = False


class FeatureLevel(NamedTuple):
    """A map (B, C, h, w) of a network and its specification."""

    map: Tensor
    spec: LevelSpec


class FeaturePair(NamedTuple):
    """A level of the teacher: its specification, the adapted student's map, the teacher's map."""

    spec: LevelSpec
    student: Tensor
    teacher: Tensor


def backbone_levels(channels: tuple[int, ...], strides: tuple[int, ...]) -> tuple[LevelSpec, ...]:
    """Return the levels 'c<stride>' of a backbone's maps, upstream of any given depth."""
    return tuple(
        LevelSpec(f'c{stride}', wide, ImagePlane(stride))
        for wide, stride in zip(channels, strides, strict=True)
    )


def find_level(levels: tuple[LevelSpec, ...], name: str) -> LevelSpec:
    """Return the level of a name; ValueError that lists the detector's levels if it has none."""
    for each in levels:
        if each.name == name:
            return each
    known = ', '.join(each.name for each in levels)
    raise ValueError(f'level {name!r}: unknown; this detector has {known}')
