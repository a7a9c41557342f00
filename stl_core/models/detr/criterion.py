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
from stl_core.models.detr import box_coding, matcher
from stl_core.tensors.batch import Targets
from stl_core.tensors.reductions import masked_mean, step_normalizer


@dataclass(frozen=True)
class QueryTargets:
    """
    What the queries of each target should say, once for every group.

    :param class_id: (B, M).
    :param box: (B, M, 6) centre box.
    :param depth_m: (B, M).
    :param size_hwl_m: (B, M, 3).
    :param heading_bin: (B, M).
    :param heading_residual: (B, M) radians.
    """

    class_id: Tensor
    box: Tensor
    depth_m: Tensor
    size_hwl_m: Tensor
    heading_bin: Tensor
    heading_residual: Tensor


def encode_query_targets(
    targets: Targets, canvas_px: Tensor, bins: int, groups: int
) -> QueryTargets:
    """
    Put targets into the terms of the heads.

    :param targets: network pixels, metres.
    :param canvas_px: (2,) width, height.
    :param bins: heading directions.
    :param groups: G.
    """
    heading_bin, heading_residual = heatmap.encode_angle(targets.alpha, bins)
    columns = {
        'class_id': targets.class_id,
        'box': box_coding.encode_boxes(targets, canvas_px),
        'depth_m': targets.depth_m,
        'size_hwl_m': targets.size_hwl_m,
        'heading_bin': heading_bin,
        'heading_residual': heading_residual,
    }
    return QueryTargets(
        **{name: torch.cat([column] * groups, 1) for name, column in columns.items()}
    )


def set_criterion(
    heads: dict[str, Tensor], query_targets: QueryTargets, matches: matcher.Matches
) -> dict[str, Tensor]:
    """
    Compare the heads of all layers with targets.

    :param heads: 'class', 'box', 'depth', 'size_3d', 'heading', each (B, L, G Q, .).
    :param query_targets: what paired queries should say.
    :param matches: which queries those are.
    :return: seven unweighted scalars.
    """
    layers = range(heads['class'].shape[1])
    query, matched = matches.query.flatten(2), matches.matched.flatten(2)
    each = [
        _layer_losses(
            {name: head[:, layer].float() for name, head in heads.items()},
            query_targets,
            query[:, layer],
            matched[:, layer],
        )
        for layer in layers
    ]
    return {name: torch.stack([part[name] for part in each]).sum() for name in each[0]}


def gather_queries(heads: dict[str, Tensor], query: Tensor) -> dict[str, Tensor]:
    """(B, G Q, D) heads and (B, M) queries -> (B, M, D) what those say."""
    return {
        name: head.gather(1, query[..., None].expand(-1, -1, head.shape[-1]))
        for name, head in heads.items()
    }


def _layer_losses(
    heads: dict[str, Tensor], query_targets: QueryTargets, query: Tensor, matched: Tensor
) -> dict[str, Tensor]:
    """Compare one layer: heads (B, G Q, .), query and found (B, M)."""
    at = gather_queries(heads, query)
    box, bins = at['box'].sigmoid(), at['heading'].shape[-1] // 2
    distance = (box - query_targets.box).abs()
    giou = box_coding.generalized_box_iou(
        box_coding.box_cxcylrtb_to_xyxy(box), box_coding.box_cxcylrtb_to_xyxy(query_targets.box)
    )
    size = query_targets.size_hwl_m
    return {
        'det/class': class_focal_loss(heads['class'], query_targets.class_id, query, matched),
        'det/center': masked_mean(distance[..., :2].sum(-1), matched),
        'det/box': masked_mean(distance[..., 2:].sum(-1), matched),
        'det/giou': masked_mean(1 - giou, matched),
        'det/depth': losses.laplacian_nll_loss(
            at['depth'][..., 0], at['depth'][..., 1], query_targets.depth_m, matched
        ),
        'det/size_3d': 3 * losses.dim_aware_l1_loss(at['size_3d'], size, size, matched),
        'det/heading': losses.multibin_loss(
            at['heading'][..., :bins],
            at['heading'][..., bins:],
            query_targets.heading_bin,
            query_targets.heading_residual,
            matched,
        ),
    }


def class_focal_loss(logits: Tensor, class_id: Tensor, query: Tensor, matched: Tensor) -> Tensor:
    """
    Sigmoid focal loss (Lin et al., RetinaNet, ICCV 2017; alpha 0.25, gamma 2).

    :param logits: (B, G Q, C) raw; those of queries without a target should be low.
    :param class_id: (B, M).
    :param query: (B, M) the query of each target.
    :param matched: (B, M) bool, whether it has one.
    :return: scalar, summed over queries and classes, divided by the number of pairs (at least 1).
    """
    batch, queries, classes = logits.shape
    truth = logits.new_zeros(batch, queries + 1, classes)
    rows = torch.arange(batch, device=logits.device)[:, None].expand_as(query)
    # slots without a query write into a row that is cut off again
    truth[rows, torch.where(matched, query, queries), class_id] = 1.0
    truth = truth[:, :-1]
    p = logits.sigmoid()
    missed = truth * (1 - p) + (1 - truth) * p
    alpha = 0.25 * truth + 0.75 * (1 - truth)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction='none')
    return (alpha * missed**2 * entropy).sum() / step_normalizer(matched)
