"""The discretisation of space: depth bins along viewing rays, and cells of the ground."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stl_core.tensors.feature_level import BevPlane


@dataclass(frozen=True)
class DepthBins:
    """
    Equal bins of depth (z in the camera frame); a bin stands for its centre.

    :param first_m: near edge of the first bin.
    :param last_m: far edge of the last bin.
    :param step_m: width of a bin.
    """

    first_m: float
    last_m: float
    step_m: float

    def __post_init__(self) -> None:
        """Raise ValueError for bins that do not lie in front of the camera."""
        if not (self.first_m > 0 and self.step_m > 0 and self.count > 0):
            raise ValueError(
                f'depth bins of {self.step_m} m from {self.first_m} to {self.last_m} m: expected'
                ' at least one, in front of the camera'
            )

    @property
    def count(self) -> int:
        """Return D, the number of bins."""
        return round((self.last_m - self.first_m) / self.step_m)

    def centers_m(self, device: torch.device | None = None) -> Tensor:
        """Return (D,) float32 depths of the middles of the bins."""
        index = torch.arange(self.count, dtype=torch.float32, device=device)
        return self.first_m + (index + 0.5) * self.step_m

    def index(self, depth_m: Tensor) -> tuple[Tensor, Tensor]:
        """
        Return the bin of each depth.

        :param depth_m: (...,) metres.
        :return: (...,) int64, 0 where there is none, and (...,) bool, whether there is one.
        """
        position = (depth_m - self.first_m) / self.step_m
        inside = (position >= 0) & (position < self.count)
        return torch.where(inside, position, 0.0).floor().long(), inside


@dataclass(frozen=True)
class BevGrid:
    """
    The part of the vehicle frame that is shown as a map: columns along x, rows along y.

    :param x_range_m: limits along x (forward).
    :param y_range_m: limits along y (left).
    :param z_range_m: points outside these heights are left out.
    :param cell_m: side of a cell.
    """

    x_range_m: tuple[float, float]
    y_range_m: tuple[float, float]
    z_range_m: tuple[float, float]
    cell_m: float

    def __post_init__(self) -> None:
        """Raise ValueError for empty ranges, or a number of cells that is no multiple of 8."""
        for name in ('x_range_m', 'y_range_m', 'z_range_m'):
            low, high = getattr(self, name)
            if not low < high:
                raise ValueError(f'{name}: expected lower and upper limit, got {low}, {high}')
        if not self.cell_m > 0:
            raise ValueError(f'cell_m: expected more than 0, got {self.cell_m}')
        for name, limits, cells in (
            ('x_range_m', self.x_range_m, self.columns),
            ('y_range_m', self.y_range_m, self.rows),
        ):
            if cells % 8 or abs(cells * self.cell_m - (limits[1] - limits[0])) > 1e-3:
                raise ValueError(
                    f'{name}: {limits[1] - limits[0]:g} m are no multiple of 8 cells of'
                    f' {self.cell_m} m'
                )

    @property
    def columns(self) -> int:
        """Return the number of cells along x."""
        return round((self.x_range_m[1] - self.x_range_m[0]) / self.cell_m)

    @property
    def rows(self) -> int:
        """Return the number of cells along y."""
        return round((self.y_range_m[1] - self.y_range_m[0]) / self.cell_m)

    @property
    def cells(self) -> int:
        """Return the number of cells."""
        return self.rows * self.columns

    @property
    def plane(self) -> BevPlane:
        """Return the plane of maps of this grid."""
        return BevPlane(self.cell_m, (self.x_range_m[0], self.y_range_m[0]))

    def position(self, center_m: Tensor) -> Tensor:
        """Return (..., 2) column and row, with fractions, of points (..., 2 or 3) in metres."""
        axes = ((0, self.x_range_m[0]), (1, self.y_range_m[0]))
        return torch.stack([(center_m[..., i] - low) / self.cell_m for i, low in axes], -1)

    def cell_of(self, center_m: Tensor) -> tuple[Tensor, Tensor]:
        """
        Return the cell of each point.

        :param center_m: (..., 2 or 3) vehicle frame.
        :return: (..., 2) int64 column and row, 0 outside, and (...,) bool, inside the grid.
        """
        column, row = self.position(center_m).unbind(-1)
        inside = (column >= 0) & (column < self.columns) & (row >= 0) & (row < self.rows)
        cell = torch.stack([column, row], -1)
        return torch.where(inside[..., None], cell, 0.0).floor().long(), inside
