"""
Projected corners of 3D boxes in the image, the keypoints of MonoCon.

Corners have MonoCon's order: the sign of the length changes slowest, then that of the height, and
the sign of the width is such that consecutive corners share an edge.
Shapes: B batch, N object slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stl_core.tensors.batch import Targets
from stl_core.tensors.positions import lift_centers

NUM_CORNERS = 8
#: Signs of half the length, half the height (downwards) and half the width, per corner.
_CORNER_SIGNS = (
    (-1, -1, -1, -1, 1, 1, 1, 1),
    (-1, -1, 1, 1, -1, -1, 1, 1),
    (-1, 1, 1, -1, -1, 1, 1, -1),
)


def project_corners(targets: Targets, P: Tensor) -> tuple[Tensor, Tensor]:
    """
    Project the eight corners of each target's 3D box into the image.

    :param targets: network pixels, metres.
    :param P: (B, 3, 4) projections to network pixels.
    :return: (B, N, 8, 2) network pixels, 0 for corners behind the camera; and (B, N, 8) bool,
        whether the corner is in front of the camera.
    """
    center = lift_centers(targets, P)
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
