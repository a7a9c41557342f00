"""
Tensors of training: batches, padded targets and network inputs.

Shape letters: B images, S samples (as many as images, unless a rig groups V images each), N object
slots, C channels, H W image, h w grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from stl_core.types import Array, ImageObjects

if TYPE_CHECKING:  # its targets derive from ObjectTargets
    from stl_core.tensors.rig import Rig

M = TypeVar('M', bound='ObjectTargets | Batch | Rig')


@dataclass(frozen=True)
class ObjectTargets:
    """
    Padded targets of any kind: slots where valid is False hold no object.

    Detectors of single images learn from Targets, those of several cameras from RigTargets.

    :param class_id: (S, N) int64.
    :param size_hwl_m: (S, N, 3) height, width, length.
    :param valid: (S, N) bool.
    """

    class_id: Tensor
    size_hwl_m: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Targets(ObjectTargets):
    """
    ImageObjects of B images, padded to N slots.

    :param center_px: (B, N, 2) projected 3D centre, network pixels.
    :param depth_m: (B, N).
    :param alpha: (B, N).
    :param box_px: (B, N, 4) network pixels.
    """

    center_px: Tensor
    depth_m: Tensor
    alpha: Tensor
    box_px: Tensor


def as_image_targets(targets: ObjectTargets) -> Targets:
    """Return targets in images; ValueError for those of a detector of several cameras."""
    if not isinstance(targets, Targets):
        raise ValueError(
            f'needs objects in single images (Targets), but this detector learns'
            f' {type(targets).__name__}'
        )
    return targets


@dataclass(frozen=True)
class Batch:
    """
    B preprocessed images with their projections and targets.

    :param image: (B, H, W, 3) uint8 RGB.
    :param P: (B, 3, 4) float32, projection of the preprocessed image.
    :param targets: ground truth for the detector, of the kind that it learns from.
    :param ids: names of the B frames, or of the S samples of a rig.
    :param depth_m: (B, H, W) float32 z of each pixel, 0 where unknown; None if no network uses it.
    :param given_depth_m: (B, H, W) float32 z in true metres that a privileged network is given, 0
        where nothing is given; None if no network is given depth. See data.given_depth.
    :param rig: which images belong together, and where their cameras are; None for single images.
    """

    image: Tensor
    P: Tensor
    targets: ObjectTargets
    ids: tuple[str, ...]
    depth_m: Tensor | None = None
    given_depth_m: Tensor | None = None
    rig: Rig | None = None

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
    :param rig: see Batch; only detectors of several cameras read it.
    """

    image: Tensor
    P: Tensor
    given_depth_m: Tensor | None = None
    rig: Rig | None = None

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
    """Return a batch, targets or rig with function applied to every tensor, nested ones, too."""
    changed: dict[str, Any] = {}
    for field in fields(value):
        part = getattr(value, field.name)
        if isinstance(part, Tensor):
            changed[field.name] = function(part)
        elif is_dataclass(part):
            changed[field.name] = map_tensors(part, function)  # type: ignore[type-var]
    return replace(value, **changed)


def to_device(value: M, device: torch.device) -> M:
    """Return a batch, targets or rig on a device; copies of pinned tensors overlap with work."""
    return map_tensors(value, lambda tensor: tensor.to(device, non_blocking=True))


def slice_batch(batch: Batch, sample_slice: slice) -> Batch:
    """Return the samples of a batch that a slice selects: whole rigs, or single images."""
    start, stop, _ = sample_slice.indices(len(batch.ids))
    views = 1 if batch.rig is None else batch.rig.views
    image_slice = slice(start * views, stop * views)
    return replace(
        map_tensors(batch, lambda tensor: tensor[image_slice]),
        targets=map_tensors(batch.targets, lambda tensor: tensor[sample_slice]),
        ids=batch.ids[sample_slice],
    )


def as_image_objects(decoded: dict[str, Tensor], image_index: int) -> ImageObjects:
    """Return one image of a detector's decoded (B, N, ...) tensors as ImageObjects, numpy."""
    columns: dict[str, Array] = {
        name: value[image_index].cpu().numpy() for name, value in decoded.items()
    }
    return ImageObjects(**columns)
