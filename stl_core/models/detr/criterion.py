"""
What MonoDETR's queries are taught: pairs of queries and targets -> named losses.

Every loss is a mean over the pairs of a decoder layer, summed over the numbers it compares and
over layers, as in the public code; 0 with a gradient path where there is no pair.
Shapes: B batch, L decoder layers, G groups, Q queries of a group, N slots, M = G N, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stl_core.models import losses
from stl_core.models.centernet import heatmap
from stl_core.models.detr import box_coding as center_box
from stl_core.models.detr import matcher as assignment
from stl_core.tensors.batch import Targets
from stl_core.tensors.reductions import count, masked_mean


@dataclass(frozen=True)
class Wanted:
    """
    What the queries of each target should say, once for every group.

    :param class_id: (B, M).
    :param box: (B, M, 6) centre box.
    :param depth_m: (B, M).
    :param size_hwl_m: (B, M, 3).
    :param heading_bin: (B, M).
    :param heading_rest: (B, M) radians.
    """

    class_id: Tensor
    box: Tensor
    depth_m: Tensor
    size_hwl_m: Tensor
    heading_bin: Tensor
    heading_rest: Tensor


def encode(targets: Targets, canvas_px: Tensor, bins: int, groups: int) -> Wanted:
    """
    Put targets into the terms of the heads.

    :param targets: network pixels, metres.
    :param canvas_px: (2,) width, height.
    :param bins: heading directions.
    :param groups: G.
    """
    heading_bin, heading_rest = heatmap.encode_angle(targets.alpha, bins)
    columns = {
        'class_id': targets.class_id,
        'box': center_box.encode(targets, canvas_px),
        'depth_m': targets.depth_m,
        'size_hwl_m': targets.size_hwl_m,
        'heading_bin': heading_bin,
        'heading_rest': heading_rest,
    }
    return Wanted(**{name: torch.cat([column] * groups, 1) for name, column in columns.items()})


def compare(
    heads: dict[str, Tensor], wanted: Wanted, pairs: assignment.Pairs
) -> dict[str, Tensor]:
    """
    Compare the heads of all layers with targets.

    :param heads: 'class', 'box', 'depth', 'size_3d', 'heading', each (B, L, G Q, .).
    :param wanted: what paired queries should say.
    :param pairs: which queries those are.
    :return: seven unweighted scalars.
    """
    layers = range(heads['class'].shape[1])
    query, found = pairs.query.flatten(2), pairs.found.flatten(2)
    each = [
        _compare_layer(
            {name: head[:, layer].float() for name, head in heads.items()},
            wanted,
            query[:, layer],
            found[:, layer],
        )
        for layer in layers
    ]
    return {name: torch.stack([part[name] for part in each]).sum() for name in each[0]}


def gather(heads: dict[str, Tensor], query: Tensor) -> dict[str, Tensor]:
    """(B, G Q, D) heads and (B, M) queries -> (B, M, D) what those say."""
    return {
        name: head.gather(1, query[..., None].expand(-1, -1, head.shape[-1]))
        for name, head in heads.items()
    }


def _compare_layer(
    heads: dict[str, Tensor], wanted: Wanted, query: Tensor, found: Tensor
) -> dict[str, Tensor]:
    """Compare one layer: heads (B, G Q, .), query and found (B, M)."""
    at = gather(heads, query)
    box, bins = at['box'].sigmoid(), at['heading'].shape[-1] // 2
    apart = (box - wanted.box).abs()
    giou = center_box.generalized_iou(center_box.corners(box), center_box.corners(wanted.box))
    size = wanted.size_hwl_m
    return {
        'det/class': class_focal(heads['class'], wanted.class_id, query, found),
        'det/center': masked_mean(apart[..., :2].sum(-1), found),
        'det/box': masked_mean(apart[..., 2:].sum(-1), found),
        'det/giou': masked_mean(1 - giou, found),
        'det/depth': losses.laplacian_nll(
            at['depth'][..., 0], at['depth'][..., 1], wanted.depth_m, found
        ),
        'det/size_3d': 3 * losses.dim_aware_l1(at['size_3d'], size, size, found),
        'det/heading': losses.multibin(
            at['heading'][..., :bins],
            at['heading'][..., bins:],
            wanted.heading_bin,
            wanted.heading_rest,
            found,
        ),
    }


def class_focal(logits: Tensor, class_id: Tensor, query: Tensor, found: Tensor) -> Tensor:
    """
    Sigmoid focal loss (Lin et al., RetinaNet, ICCV 2017; alpha 0.25, gamma 2).

    :param logits: (B, G Q, C) raw; those of queries without a target should be low.
    :param class_id: (B, M).
    :param query: (B, M) the query of each target.
    :param found: (B, M) bool, whether it has one.
    :return: scalar, summed over queries and classes, divided by the number of pairs (at least 1).
    """
    batch, queries, classes = logits.shape
    truth = logits.new_zeros(batch, queries + 1, classes)
    rows = torch.arange(batch, device=logits.device)[:, None].expand_as(query)
    # slots without a query write into a row that is cut off again
    truth[rows, torch.where(found, query, queries), class_id] = 1.0
    truth = truth[:, :-1]
    p = logits.sigmoid()
    missed = truth * (1 - p) + (1 - truth) * p
    alpha = 0.25 * truth + 0.75 * (1 - truth)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction='none')
    return (alpha * missed**2 * entropy).sum() / count(found)
