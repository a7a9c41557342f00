"""
Feature levels: a network's maps, the plane each of them lies in, and where objects are on it.

Losses between feature maps ask the plane of a map for the cells of an object; they need not know
whether a cell is a number of pixels or of metres.
Shapes: B batch, N object slots, K valid objects, C channels, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from stl_core.tensors import regions
from stl_core.tensors.batch import ObjectTargets, as_image_targets
from stl_core.tensors.rig import as_rig_targets


class FeaturePlane(Protocol):
    """The plane of a feature map: which cells belong to an object."""

    def box_cells(self, targets: ObjectTargets, grid: Tensor) -> Tensor:
        """Return the cells that each object covers on `grid` (B, C, h, w): (B, N, h, w) bool."""

    def object_cells(self, targets: ObjectTargets, grid: Tensor, around: float = 0.0) -> Tensor:
        """Return the cells of each object, the nearest one's where they overlap, (B, N, h, w)."""

    def nearest_object_map(self, targets: ObjectTargets, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, h, w) slot of the nearest object in a cell, and whether there is one."""

    def object_rois(
        self, targets: ObjectTargets, size_px: tuple[int, int], indices: Tensor
    ) -> Tensor:
        """Return (K, 5) map index and box in cells of (K,) regions.valid_indices."""


@dataclass(frozen=True)
class ImagePlane:
    """
    The plane of the image: a cell is a square of `stride` network pixels; see regions.

    :param stride: network pixels per cell.
    """

    stride: float

    def box_cells(self, targets: ObjectTargets, grid: Tensor) -> Tensor:
        """Return the cells that each 2D box covers, see regions.box_cells."""
        return regions.box_cells(as_image_targets(targets), self.stride, *grid.shape[-2:])

    def object_cells(self, targets: ObjectTargets, grid: Tensor, around: float = 0.0) -> Tensor:
        """Return the cells of each object's 2D box, see regions.object_cells."""
        h, w = grid.shape[-2:]
        return regions.object_cells(as_image_targets(targets), self.stride, h, w, around)

    def nearest_object_map(self, targets: ObjectTargets, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the owner of each cell, see regions.nearest_object_map."""
        return regions.nearest_object_map(as_image_targets(targets), self.stride, *grid.shape[-2:])

    def object_rois(
        self, targets: ObjectTargets, size_px: tuple[int, int], indices: Tensor
    ) -> Tensor:
        """Return 2D boxes, clipped to the canvas, in cells, see regions.object_rois."""
        rois = regions.object_rois(as_image_targets(targets), size_px, indices)
        rois[:, 1:] /= self.stride
        return rois


@dataclass(frozen=True)
class BevPlane:
    """
    The ground around a vehicle: columns run along x (forward), rows along y (left).

    An object covers its footprint, a rotated rectangle; of several objects in a cell, the one
    nearest to the vehicle counts.

    :param cell_m: side of a cell.
    :param origin_m: x and y of the corner of the first cell, vehicle frame.
    """

    cell_m: float
    origin_m: tuple[float, float]

    def box_cells(self, targets: ObjectTargets, grid: Tensor) -> Tensor:
        """Return the cells that each footprint covers, see regions.footprint_cells."""
        return self._cells(targets, grid, 0.0)

    def object_cells(self, targets: ObjectTargets, grid: Tensor, around: float = 0.0) -> Tensor:
        """Return the cells of each object's footprint, see regions.divide_cells."""
        dilated = self._cells(targets, grid, around) if around else None
        inside = self._cells(targets, grid, 0.0)
        return regions.divide_cells(inside, as_rig_targets(targets).range_m, dilated)

    def nearest_object_map(self, targets: ObjectTargets, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the owner of each cell, see regions.owner_map."""
        inside = self._cells(targets, grid, 0.0)
        return regions.owner_map(inside, as_rig_targets(targets).range_m)

    def object_rois(
        self, targets: ObjectTargets, size_px: tuple[int, int], indices: Tensor
    ) -> Tensor:
        """
        Return the hulls of footprints in cells, see regions.footprint_rois.

        They may extend beyond the map, where pooling repeats its last cells.
        """
        rois = regions.footprint_rois(as_rig_targets(targets), indices)
        sample, *edges = rois.unbind(1)
        origins = (*self.origin_m, *self.origin_m)
        in_cells = [
            (edge - origin) / self.cell_m for edge, origin in zip(edges, origins, strict=True)
        ]
        return torch.stack([sample, *in_cells], 1)

    def _cells(self, targets: ObjectTargets, grid: Tensor, around: float) -> Tensor:
        h, w = grid.shape[-2:]
        return regions.footprint_cells(
            as_rig_targets(targets), self.cell_m, self.origin_m, (h, w), around
        )


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
