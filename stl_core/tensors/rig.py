"""
Tensors of several cameras on one vehicle: which images belong together, and objects around it.

The vehicle frame is x forward, y left, z up, in metres, from a point on the ground.
Shapes: S samples, V views (cameras) of a sample, B = S * V images, view after view within a
sample, N object slots, D depth bins, h w grid of image features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stl_core.tensors.batch import ObjectTargets
from stl_core.vehicle_types import VehicleObjects


@dataclass(frozen=True)
class Rig:
    """
    The cameras of the images of a batch.

    :param views: V, the images of a sample; B is a multiple.
    :param vehicle_T_cam: (B, 4, 4) float32, camera to vehicle frame, at the time of the sample.
        With augmentation of the bird's-eye view, it includes the rotation, flip and scale.
    :param present: (B,) bool, False for a camera without an image: its canvas holds no picture,
        and nothing of it reaches the bird's-eye view.
    :param voxel_index: (B, D, h, w) int64 cell of the bird's-eye view of each frustum point, see
        models.lift_splat.frustum.voxel_index; None lets the detector compute it from P and
        vehicle_T_cam.
    """

    views: int
    vehicle_T_cam: Tensor
    present: Tensor
    voxel_index: Tensor | None = None

    @property
    def samples(self) -> int:
        """Return S."""
        return len(self.present) // self.views


@dataclass(frozen=True)
class RigTargets(ObjectTargets):
    """
    VehicleObjects of S samples, padded to N slots.

    :param center_m: (S, N, 3) middle of the box.
    :param yaw: (S, N) about z, 0 = length along x.
    :param velocity_mps: (S, N, 2) over ground along x and y; nan where unknown.
    :param attribute_id: (S, N) int64 index into the detector's attributes, -1 where unknown.
    :param depth_m: (S, V, H, W) z of pixels in their cameras' frames that depth supervision
        teaches, 0 where it teaches none; None without depth supervision.
    """

    center_m: Tensor
    yaw: Tensor
    velocity_mps: Tensor
    attribute_id: Tensor
    depth_m: Tensor | None = None

    @property
    def range_m(self) -> Tensor:
        """Return (S, N) the horizontal distance of each centre from the vehicle's origin."""
        return torch.linalg.vector_norm(self.center_m[..., :2], dim=-1)


def as_rig_targets(targets: ObjectTargets) -> RigTargets:
    """Return targets around a vehicle; ValueError for those of a detector of single images."""
    if not isinstance(targets, RigTargets):
        raise ValueError(
            f'needs objects around a vehicle (RigTargets), but this detector learns'
            f' {type(targets).__name__}'
        )
    return targets


def require_rig(rig: Rig | None, images: int) -> Rig:
    """Return the rig of B images; ValueError without one, or if its tensors do not fit them."""
    if rig is None:
        raise ValueError(
            'input without rig: this detector sees the cameras of a vehicle together; expected'
            ' their poses'
        )
    shapes = (tuple(rig.vehicle_T_cam.shape), tuple(rig.present.shape))
    if shapes != ((images, 4, 4), (images,)) or rig.views < 1 or images % rig.views:
        raise ValueError(
            f'rig of {rig.views} views with vehicle_T_cam {shapes[0]} and present {shapes[1]}:'
            f' does not fit {images} images'
        )
    return rig


def pad_rig_targets(
    objects: Sequence[VehicleObjects], slots: int, depth_m: Tensor | None = None
) -> RigTargets:
    """
    Stack the objects of S samples into padded targets.

    :param objects: S sets of objects, vehicle frame.
    :param slots: N; a sample with more objects keeps the nearest ones.
    :param depth_m: see RigTargets.
    :return: targets on the CPU, float32.
    """

    def column(name: str, dtype: torch.dtype) -> Tensor:
        width = VehicleObjects.FIELD_SHAPES[name]
        out = torch.zeros(len(objects), slots, *width, dtype=dtype)
        for row, kept in enumerate(nearest):
            out[row, : len(kept)] = torch.as_tensor(np.array(getattr(kept, name)), dtype=dtype)
        return out

    ranges = [np.hypot(*each.center_m[:, :2].T) for each in objects]
    nearest = [
        each[np.argsort(range_m, kind='stable')[:slots]]
        for each, range_m in zip(objects, ranges, strict=True)
    ]
    counts = torch.tensor([len(kept) for kept in nearest])
    return RigTargets(
        class_id=column('class_id', torch.int64),
        size_hwl_m=column('size_hwl_m', torch.float32),
        valid=torch.arange(slots)[None] < counts[:, None],
        center_m=column('center_m', torch.float32),
        yaw=column('yaw', torch.float32),
        velocity_mps=column('velocity_mps', torch.float32),
        attribute_id=column('attribute_id', torch.int64),
        depth_m=depth_m,
    )


def as_vehicle_objects(decoded: dict[str, Tensor], sample_index: int) -> VehicleObjects:
    """Return one sample of a detector's decoded (S, N, ...) tensors as VehicleObjects, numpy."""
    return VehicleObjects(
        **{name: value[sample_index].cpu().numpy() for name, value in decoded.items()}
    )
