"""
Hungarian matching of queries to targets (Carion et al., DETR, ECCV 2020).

Queries come in groups that are matched independently, so that in training every target supervises
one query of each group (Chen et al., Group DETR, ICCV 2023). SciPy solves the assignment on the
host: one copy transfers the costs of all images, layers and groups, the only time the host waits.
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
    """Weights of the terms of the matching cost; the defaults are MonoDETR's."""

    class_: float = 2.0
    center: float = 10.0
    box: float = 5.0
    giou: float = 2.0


@dataclass(frozen=True)
class Matches:
    """
    The matched query of every target.

    :param query: (B, L, G, N) index over the G * Q queries; 0 for an unmatched target.
    :param matched: (B, L, G, N) bool, whether the target has a query.
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
    Compute the cost of every query for every target: class, centre, box and generalised IoU.

    :param logits: (B, L, G Q, C) raw class scores.
    :param box: (B, L, G Q, 6) boxes after the sigmoid, see box_coding.
    :param class_id: (B, N).
    :param target_box: (B, N, 6) boxes of the targets, from encode_boxes.
    :param weights: weights of the terms.
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
    Match targets to queries at minimum total cost, in each image, layer and group.

    With more targets than queries, the targets that would cost the most stay unmatched.

    :param cost: (B, L, G Q, N).
    :param valid: (B, N) bool, the targets to match.
    :param groups: G.
    :return: matches, on the device of cost.
    """
    batch, layers, queries, slots = cost.shape
    size = queries // groups
    # SciPy would fail on NaN here; let the trainer fail instead, whose message gives the cause
    costs = torch.nan_to_num(cost, nan=1e9).view(batch, layers, groups, size, slots).cpu().numpy()
    is_valid = valid.cpu().numpy()
    query = np.zeros((batch, layers, groups, slots), np.int64)
    matched = np.zeros(query.shape, bool)
    for row, layer, group in np.ndindex(batch, layers, groups):
        (columns,) = np.nonzero(is_valid[row])
        query_index, target_index = linear_sum_assignment(costs[row, layer, group][:, columns])
        query[row, layer, group, columns[target_index]] = query_index + group * size
        matched[row, layer, group, columns[target_index]] = True
    device = cost.device
    return Matches(torch.from_numpy(query).to(device), torch.from_numpy(matched).to(device))
