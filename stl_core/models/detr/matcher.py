"""
Which query answers for which target: the cheapest pairing (Carion et al., DETR, ECCV 2020).

Queries come in groups that are paired apart, so that in training every target is taught to one
query of each (Chen et al., Group DETR, ICCV 2023). Pairing is SciPy's, on the host: the costs of
all images, layers and groups cross in one copy, the only place where the host waits.
Shapes: B batch, L decoder layers, G groups, Q queries of a group, N slots, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from stl_core.models.detr import box_coding


@dataclass(frozen=True)
class MatcherWeights:
    """Weight of every part of the cost; the defaults are MonoDETR's."""

    class_: float = 2.0
    center: float = 10.0
    box: float = 5.0
    giou: float = 2.0


@dataclass(frozen=True)
class Matches:
    """
    The query of every target.

    :param query: (B, L, G, N) counting over the G * Q queries; 0 where there is none.
    :param matched: (B, L, G, N) bool, whether there is one.
    """

    query: Tensor
    matched: Tensor


@torch.no_grad()
def matching_cost(
    logits: Tensor,
    box: Tensor,
    class_id: Tensor,
    target_box: Tensor,
    weights: MatcherWeights = MatcherWeights(),
) -> Tensor:
    """
    Price every query for every target.

    :param logits: (B, L, G Q, C) raw class scores.
    :param box: (B, L, G Q, 6) centre boxes.
    :param class_id: (B, N).
    :param target_box: (B, N, 6) centre boxes of the targets.
    :param weights: of the parts.
    :return: (B, L, G Q, N).
    """
    p = logits.float().sigmoid()
    positive, negative = -torch.log(p + 1e-8), -torch.log(1 - p + 1e-8)
    focal = 0.25 * (1 - p) ** 2 * positive - 0.75 * p**2 * negative
    index = class_id[:, None, None].expand(*p.shape[:3], -1)
    box, target_box = box.float()[:, :, :, None], target_box[:, None, None]
    distance = (box - target_box).abs()
    giou = box_coding.generalized_box_iou(
        box_coding.box_cxcylrtb_to_xyxy(box), box_coding.box_cxcylrtb_to_xyxy(target_box)
    )
    return (
        weights.class_ * focal.gather(-1, index)
        + weights.center * distance[..., :2].sum(-1)
        + weights.box * distance[..., 2:].sum(-1)
        - weights.giou * giou
    )


def hungarian_match(cost: Tensor, valid: Tensor, groups: int) -> Matches:
    """
    Pair targets with queries at the least total price, in each image, layer and group.

    Of more targets than queries, the dearest stay without.

    :param cost: (B, L, G Q, N).
    :param valid: (B, N) bool, targets that want a query.
    :param groups: G.
    :return: pairs, on the device of price.
    """
    batch, layers, queries, slots = cost.shape
    each = queries // groups
    # a price that is not a number would stop SciPy here instead of the trainer, which tells why
    host = torch.nan_to_num(cost, nan=1e9).view(batch, layers, groups, each, slots).cpu().numpy()
    is_valid = valid.cpu().numpy()
    query = np.zeros((batch, layers, groups, slots), np.int64)
    matched = np.zeros(query.shape, bool)
    for row, layer, group in np.ndindex(batch, layers, groups):
        (columns,) = np.nonzero(is_valid[row])
        chosen, index = linear_sum_assignment(host[row, layer, group][:, columns])
        query[row, layer, group, columns[index]] = chosen + group * each
        matched[row, layer, group, columns[index]] = True
    device = cost.device
    return Matches(torch.from_numpy(query).to(device), torch.from_numpy(matched).to(device))
