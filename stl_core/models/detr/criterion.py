"""
MonoDETR's set criterion: losses between matched queries and targets, by name.

A loss is the mean over the matched pairs of a decoder layer, summed over the compared components
and over layers, as in the public code. Without pairs it is 0 with a gradient path, except the
class loss, which also counts unmatched queries.
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
from stl_core.models.detr.query_heads import QueryHeads
from stl_core.tensors.batch import Targets
from stl_core.tensors.reductions import StepNormalizer, masked_mean


@dataclass(frozen=True)
class QueryTargets:
    """
    Targets as the values that queries regress, repeated for each of G groups (M = G N).

    :param class_id: (B, M).
    :param box: (B, M, 6) from encode_boxes.
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
    targets: Targets, size_px: tuple[int, int], bins: int, groups: int
) -> QueryTargets:
    """
    Encode targets as the values that queries regress, repeated for each group.

    :param targets: network pixels, metres.
    :param size_px: height and width of the canvas.
    :param bins: number of heading bins.
    :param groups: G.
    """
    heading_bin, heading_residual = heatmap.encode_angle(targets.alpha, bins)
    columns = {
        'class_id': targets.class_id,
        'box': box_coding.encode_boxes(targets, size_px),
        'depth_m': targets.depth_m,
        'size_hwl_m': targets.size_hwl_m,
        'heading_bin': heading_bin,
        'heading_residual': heading_residual,
    }
    return QueryTargets(
        **{name: torch.cat([column] * groups, 1) for name, column in columns.items()}
    )


def set_criterion(
    heads: QueryHeads,
    query_targets: QueryTargets,
    matches: matcher.Matches,
    normalizer: StepNormalizer,
) -> dict[str, Tensor]:
    """
    Compute the losses of all decoder layers.

    :param heads: raw, each (B, L, G Q, channels).
    :param query_targets: from encode_query_targets.
    :param matches: the query of each target, from hungarian_match.
    :param normalizer: normaliser of the step.
    :return: seven unweighted scalars, keys 'det/...', summed over layers.
    """
    layers = range(heads.class_logits.shape[1])
    query, matched = matches.query.flatten(2), matches.matched.flatten(2)
    per_layer = [
        _layer_losses(
            heads.layer(layer),
            query_targets,
            query[:, layer],
            matched[:, layer],
            normalizer,
        )
        for layer in layers
    ]
    return {name: torch.stack([terms[name] for terms in per_layer]).sum() for name in per_layer[0]}


def _layer_losses(
    heads: QueryHeads,
    query_targets: QueryTargets,
    query: Tensor,
    matched: Tensor,
    normalizer: StepNormalizer,
) -> dict[str, Tensor]:
    """Compute the losses of one layer: heads (B, G Q, channels), query and matched (B, M)."""
    predicted = heads.gather(query)
    box, bins = predicted.box.sigmoid(), predicted.heading.shape[-1] // 2
    distance = (box - query_targets.box).abs()
    giou = box_coding.generalized_box_iou(
        box_coding.box_cxcylrtb_to_xyxy(box), box_coding.box_cxcylrtb_to_xyxy(query_targets.box)
    )
    size = query_targets.size_hwl_m
    return {
        'det/class': class_focal_loss(
            heads.class_logits, query_targets.class_id, query, matched, normalizer
        ),
        'det/center': masked_mean(distance[..., :2].sum(-1), matched, normalizer),
        'det/box': masked_mean(distance[..., 2:].sum(-1), matched, normalizer),
        'det/giou': masked_mean(1 - giou, matched, normalizer),
        'det/depth': losses.laplacian_nll_loss(
            predicted.depth[..., 0],
            predicted.depth[..., 1],
            query_targets.depth_m,
            matched,
            normalizer,
        ),
        'det/size_3d': 3
        * losses.dim_aware_l1_loss(predicted.size_3d, size, size, matched, normalizer),
        'det/heading': losses.multibin_loss(
            predicted.heading[..., :bins],
            predicted.heading[..., bins:],
            query_targets.heading_bin,
            query_targets.heading_residual,
            matched,
            normalizer,
        ),
    }


def class_focal_loss(
    logits: Tensor,
    class_id: Tensor,
    query: Tensor,
    matched: Tensor,
    normalizer: StepNormalizer,
) -> Tensor:
    """
    Compute the sigmoid focal loss (Lin et al., RetinaNet, ICCV 2017; alpha 0.25, gamma 2).

    :param logits: (B, G Q, C) raw; an unmatched query is a negative for all classes.
    :param class_id: (B, M).
    :param query: (B, M) the query of each target.
    :param matched: (B, M) bool, whether the target has a query.
    :param normalizer: normaliser of the step.
    :return: scalar, summed over queries and classes, divided by the number of pairs (at least 1).
    """
    batch, queries, classes = logits.shape
    one_hot = logits.new_zeros(batch, queries + 1, classes)
    rows = torch.arange(batch, device=logits.device)[:, None].expand_as(query)
    # slots without a query write into an extra row, which is cut off below
    one_hot[rows, torch.where(matched, query, queries), class_id] = 1.0
    one_hot = one_hot[:, :-1]
    p = logits.sigmoid()
    error = one_hot * (1 - p) + (1 - one_hot) * p
    alpha = 0.25 * one_hot + 0.75 * (1 - one_hot)
    entropy = F.binary_cross_entropy_with_logits(logits, one_hot, reduction='none')
    return (alpha * error**2 * entropy).sum() / normalizer.total(matched)
