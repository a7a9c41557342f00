"""
Geometry of the lift: where the image cells of all cameras lie at every depth, and in which cell.

A pixel (u, v) shows the points X = (x, y, z, 1) with (P_1 - u P_3) X = 0 and (P_2 - v P_3) X = 0,
P_i the rows of the projection. For a fixed pixel these are two linear equations of x and y whose
right side is linear in z, so the points at depth z are o + z d, with P of any form, such as one
with a fourth column, or of a mirrored image. The pose of the camera maps o and d to the vehicle.

BEVDepth's public code (MIT, Megvii-BaseDetection/BEVDepth at d78c7b5) has the same layout with
other conventions, which tests name: pixels are linspace(0, W - 1, w) instead of the centres of
cells; a bin lies at its lower edge instead of its centre; indices are truncated toward zero
instead of rounded down, so that points up to a cell outside of the grid count as its first cells.
Shapes: B images, D depth bins, h w grid of the image features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stl_core.models.lift_splat.grid import BevGrid, DepthBins
from stl_core.tensors.positions import cell_centers_px


def pixel_rays(
    P: Tensor, vehicle_T_cam: Tensor, hw: tuple[int, int], size_px: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return pixels_to_rays of the centres of the cells of a grid of hw cells on the canvas."""
    pixel = cell_centers_px(hw, size_px, P.device, torch.float64)
    return pixels_to_rays(P, vehicle_T_cam, pixel)


def pixels_to_rays(P: Tensor, vehicle_T_cam: Tensor, pixel: Tensor) -> tuple[Tensor, Tensor]:
    """
    Return the viewing rays of pixels: the points at depth z are origin + z direction.

    Computed number by number in float64, so that a camera's rays do not depend on which other
    cameras share its batch.

    :param P: (B, 3, 4) projections to network pixels.
    :param vehicle_T_cam: (B, 4, 4).
    :param pixel: (h, w, 2) float64, network pixels.
    :return: (B, h, w, 3) origin and (B, h, w, 3) direction, float32, vehicle frame; the direction
        is not a unit vector. Not finite where a pixel sees no point.
    """
    P = P.double()[:, None, None]
    u, v = (P[..., i, :] - pixel[..., i, None] * P[..., 2, :] for i in (0, 1))
    det = u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    def solve(column: int) -> Tensor:
        x = u[..., 1] * v[..., column] - v[..., 1] * u[..., column]
        y = v[..., 0] * u[..., column] - u[..., 0] * v[..., column]
        return torch.stack([x / det, y / det], -1)

    slope, offset = solve(2), solve(3)
    pose = vehicle_T_cam.double()[:, None, None]
    direction = _rotate(pose, slope) + pose[..., :3, 2]
    origin = _rotate(pose, offset) + pose[..., :3, 3]
    return origin.float(), direction.float()


def _rotate(pose: Tensor, xy: Tensor) -> Tensor:
    """Return x times the first and y times the second column of a rotation, without a matmul."""
    return pose[..., :3, 0] * xy[..., 0, None] + pose[..., :3, 1] * xy[..., 1, None]


def frustum_points(origin: Tensor, direction: Tensor, depths_m: Tensor) -> Tensor:
    """Return (B, D, h, w, 3) the points of (B, h, w, 3) rays at (D,) depths, vehicle frame."""
    z = depths_m.to(origin.dtype)[:, None, None, None]
    return origin[:, None] + z * direction[:, None]


def points_to_cells(points_m: Tensor, grid: BevGrid) -> Tensor:
    """
    Return the cell of each point.

    :param points_m: (..., 3) vehicle frame.
    :param grid: the grid.
    :return: (...,) int64 row * columns + column; grid.cells for a point outside of the grid or of
        its heights, or that is not finite.
    """
    cell, inside = grid.cell_of(points_m)
    z, (low, high) = points_m[..., 2], grid.z_range_m
    inside = inside & (z >= low) & (z < high)
    return torch.where(inside, cell[..., 1] * grid.columns + cell[..., 0], grid.cells)


def voxel_index(
    P: Tensor,
    vehicle_T_cam: Tensor,
    hw: tuple[int, int],
    size_px: tuple[int, int],
    bins: DepthBins,
    grid: BevGrid,
) -> Tensor:
    """
    Return the cell of the grid in which each frustum point lies; see points_to_cells.

    :param P: (B, 3, 4) projections to network pixels.
    :param vehicle_T_cam: (B, 4, 4).
    :param hw: height and width of the grid of image features.
    :param size_px: height and width of the canvas.
    :param bins: depths of the points, the centres of the bins.
    :param grid: the grid.
    :return: (B, D, h, w) int64, at most grid.cells.
    """
    rays = pixel_rays(P, vehicle_T_cam, hw, size_px)
    return points_to_cells(frustum_points(*rays, bins.centers_m(P.device)), grid)
