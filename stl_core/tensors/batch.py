"""
Tensors of training: batches, padded targets and network inputs.

Shape letters: B batch, N object slots per image, C channels, H W image, h w grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from stl_core.types import Array, ImageObjects

M = TypeVar('M', 'Targets', 'Batch')


@dataclass(frozen=True)
class Targets:
    """
    ImageObjects of B images, padded to N slots; slots where valid is False hold no object.

    :param class_id: (B, N) int64.
    :param center_px: (B, N, 2) projected 3D centre, network pixels.
    :param depth_m: (B, N).
    :param size_hwl_m: (B, N, 3).
    :param alpha: (B, N).
    :param box_px: (B, N, 4) network pixels.
    :param valid: (B, N) bool.
    """

    class_id: Tensor
    center_px: Tensor
    depth_m: Tensor
    size_hwl_m: Tensor
    alpha: Tensor
    box_px: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Batch:
    """
    B preprocessed images with their projections and targets.

    :param image: (B, H, W, 3) uint8 RGB.
    :param P: (B, 3, 4) float32, projection of the preprocessed image.
    :param targets: ground truth for the detector.
    :param ids: B frame names.
    :param depth_m: (B, H, W) float32 z of each pixel, 0 where unknown; None if no network uses it.
    :param given_depth_m: (B, H, W) float32 z in true metres that a privileged network is given, 0
        where nothing is given; None if no network is given depth. See data.given_depth.
    """

    image: Tensor
    P: Tensor
    targets: Targets
    ids: tuple[str, ...]
    depth_m: Tensor | None = None
    given_depth_m: Tensor | None = None

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; a DataLoader with pin_memory=True calls this."""
        return map_tensors(self, Tensor.pin_memory)


@dataclass(frozen=True)
class NetworkInput:
    """
    What a network sees of B images.

    :param image: (B, C, H, W) normalised RGB, or depth of a teacher, see normalization.
    :param P: (B, 3, 4) projections to network pixels.
    :param given_depth_m: (B, H, W) z in metres that a privileged teacher is given in place of what
        its own depth branch would predict, 0 where unknown; None for every other network.
    """

    image: Tensor
    P: Tensor
    given_depth_m: Tensor | None = None

    @property
    def size_px(self) -> tuple[int, int]:
        """Height and width of the images, network pixels."""
        return self.image.shape[2], self.image.shape[3]


def pad_targets(objects: list[ImageObjects], slots: int) -> Targets:
    """
    Stack the objects of B images into padded targets.

    :param objects: B sets of image objects, network pixels.
    :param slots: N; an image with more objects keeps the nearest ones.
    :return: targets on the CPU, float32.
    """

    def column(name: str, dtype: torch.dtype) -> Tensor:
        width = ImageObjects.FIELD_SHAPES[name]
        out = torch.zeros(len(objects), slots, *width, dtype=dtype)
        for row, kept in enumerate(nearest):
            out[row, : len(kept)] = torch.as_tensor(np.array(getattr(kept, name)), dtype=dtype)
        return out

    nearest = [each[np.argsort(each.depth_m, kind='stable')[:slots]] for each in objects]
    counts = torch.tensor([len(kept) for kept in nearest])
    return Targets(
        class_id=column('class_id', torch.int64),
        center_px=column('center_px', torch.float32),
        depth_m=column('depth_m', torch.float32),
        size_hwl_m=column('size_hwl_m', torch.float32),
        alpha=column('alpha', torch.float32),
        box_px=column('box_px', torch.float32),
        valid=torch.arange(slots)[None] < counts[:, None],
    )


def map_tensors(value: M, function: Callable[[Tensor], Tensor]) -> M:
    """Return a Batch or Targets with function applied to every tensor, nested Targets included."""
    changed: dict[str, Any] = {}
    for field in fields(value):
        part = getattr(value, field.name)
        if isinstance(part, Tensor):
            changed[field.name] = function(part)
        elif isinstance(part, Targets):
            changed[field.name] = map_tensors(part, function)
    return replace(value, **changed)


def to_device(value: M, device: torch.device) -> M:
    """Return a Batch or Targets on a device; copies of pinned tensors overlap with computation."""
    return map_tensors(value, lambda tensor: tensor.to(device, non_blocking=True))


def slice_batch(batch: Batch, image_slice: slice) -> Batch:
    """Return the images of a batch that a slice selects."""
    return replace(
        map_tensors(batch, lambda tensor: tensor[image_slice]), ids=batch.ids[image_slice]
    )


def as_image_objects(decoded: dict[str, Tensor], image_index: int) -> ImageObjects:
    """Return one image of a detector's decoded (B, N, ...) tensors as ImageObjects, numpy."""
    columns: dict[str, Array] = {
        name: value[image_index].cpu().numpy() for name, value in decoded.items()
    }
    return ImageObjects(**columns)
