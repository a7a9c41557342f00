"""
Where the corners of objects' 3D boxes are in the image.

Corners are told in MonoCon's order: the sign of length outermost, then that of height, and width
so that one after another they share an edge.
Shapes: B batch, N object slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stl_core.tensors.batch import Targets

NUM_CORNERS = 8
#: Along the length, down the height and across the width, of half the size each.
_CORNER_SIGNS = (
    (-1, -1, -1, -1, 1, 1, 1, 1),
    (-1, -1, 1, 1, -1, -1, 1, 1),
    (-1, 1, 1, -1, -1, 1, 1, -1),
)


def project_corners(targets: Targets, P: Tensor) -> tuple[Tensor, Tensor]:
    """
    Project the corners of targets.

    :param targets: network pixels, metres.
    :param P: (B, 3, 4) projections to those pixels.
    :return: (B, N, 8, 2) network pixels, 0 where not seen; and (B, N, 8) bool, whether the corner
        is in front of the camera.
    """
    center = _lift_centers(targets, P)
    rotation_y = targets.alpha + torch.atan2(center[..., 0], center[..., 2])
    h, w, length = (targets.size_hwl_m / 2).unbind(-1)
    signs = torch.tensor(_CORNER_SIGNS, dtype=h.dtype, device=h.device)
    along, down, across = (
        half[..., None] * sign for half, sign in zip((length, h, w), signs, strict=True)
    )
    cos, sin = rotation_y.cos()[..., None], rotation_y.sin()[..., None]
    offset = torch.stack([cos * along + sin * across, down, cos * across - sin * along], -1)
    points = center[:, :, None] + offset
    homogeneous = torch.einsum('bij,bnkj->bnki', P[..., :3], points) + P[:, None, None, :, 3]
    in_front = (homogeneous[..., 2] > 0) & (points[..., 2] > 0)
    pixels = homogeneous[..., :2] / torch.where(in_front, homogeneous[..., 2], 1.0)[..., None]
    return torch.where(in_front[..., None], pixels, 0.0), in_front


def _lift_centers(targets: Targets, P: Tensor) -> Tensor:
    """Centres in the camera frame, (B, N, 3); see geometry.backproject for the two equations."""
    rows = P[:, None, :2] - targets.center_px[..., None] * P[:, None, 2:]
    right = -(rows[..., 2] * targets.depth_m[..., None] + rows[..., 3])
    (a, b), (c, d) = (row.unbind(-1) for row in rows[..., :2].unbind(-2))
    det = a * d - b * c
    x = (d * right[..., 0] - b * right[..., 1]) / det
    y = (a * right[..., 1] - c * right[..., 0]) / det
    return torch.stack([x, y, targets.depth_m], -1)
