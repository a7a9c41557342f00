"""
Assignment of a batch's targets to queries, computed once per network and step.

Losses and distillation both need it, and matching waits for the device: forward computes the
assignment if it is given the targets, and keeps it in Outputs.
Shapes: B batch, L decoder layers, G groups, Q queries of a group, N slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stl_core.models.detr import box_coding, matcher
from stl_core.models.detr.query_heads import MonoDETRHeads, QueryHeads
from stl_core.tensors.batch import Targets
from stl_core.tensors.detector import Outputs


@dataclass(frozen=True)
class Assignment:
    """
    Targets and the queries that are responsible for them.

    :param targets: the targets that were assigned.
    :param matches: the query of each target, in every layer and group.
    :param trainable: (B, N) bool, targets that are not ignored: those whose projected centre is on
        the canvas and in their 2D box.
    """

    targets: Targets
    matches: matcher.Matches
    trainable: Tensor


@torch.no_grad()
def assign_targets(
    heads: QueryHeads, targets: Targets, size_px: tuple[int, int], groups: int
) -> Assignment:
    """
    Assign targets to queries, in every decoder layer and group.

    :param heads: raw, each (B, L, G Q, channels).
    :param targets: network pixels, metres.
    :param size_px: height and width of the canvas.
    :param groups: G.
    """
    target_box = box_coding.encode_boxes(targets, size_px)
    cost = matcher.matching_cost(
        heads.class_logits, heads.box.sigmoid(), targets.class_id, target_box
    )
    trainable = targets.valid & box_coding.is_representable(target_box)
    return Assignment(targets, matcher.hungarian_match(cost, trainable, groups), trainable)


def find_assignment(outputs: Outputs[MonoDETRHeads], targets: Targets) -> Assignment | None:
    """Return the assignment that forward made of these very targets, None without."""
    kept = outputs.assignment
    return kept if isinstance(kept, Assignment) and kept.targets is targets else None
