"""
Target-aware spatial response distillation, TSRD (Wu et al., DK3D, TPAMI 2025).

Published (abstract): the student learns the relations between the objects of a scene; of ADD and
FD3D, which it builds on: attention among targets, a 3D-aware positional encoding, and KL for
relations. Tokens, formula and weights are our choice; we know of no other public implementation.
Shapes: B batch, N object slots, C channels, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stl_core.distill.compared_level import compared_level
from stl_core.distill.roi_align import mean_of_boxes
from stl_core.distill.running_statistics import RunningChannelStatistics
from stl_core.distill.transfer import Transfer
from stl_core.distill.view import DistillView, NetworkOutputs
from stl_core.distill.weighting import bounded_deviation
from stl_core.tensors.batch import ObjectTargets
from stl_core.tensors.detector import Detector
from stl_core.tensors.feature_level import LevelSpec
from stl_core.tensors.positions import object_centers, sinusoidal_encoding
from stl_core.tensors.reductions import StepNormalizer, masked_mean

#: Level that stands for the query matched to each object instead of a map.
QUERIES = 'queries'


@dataclass(frozen=True)
class TsrdConfig:
    """
    Configuration of TSRD.

    :param level: the map of which objects are pooled, downstream of where given depth enters, or
        'queries', the query matched to each object; '' for the detector's only such map.
    :param temperature: by which cosines are divided in the softmax.
    :param cells: cells per side of a pooled object.
    :param relation_weight: weight of the divergence of the attentions.
    :param response_weight: weight of the difference of the responses.
    :param momentum: weight of a step in the running statistics of the teacher's tokens.
    """

    level: str = ''
    temperature: float = 0.1
    cells: int = 7
    relation_weight: float = 1.0
    response_weight: float = 1.0
    momentum: float = 0.01

    def __post_init__(self) -> None:
        """Raise ValueError for a temperature not above 0, no cells or a negative weight."""
        if not self.temperature > 0:
            raise ValueError(f'temperature: {self.temperature}; must be above 0')
        if self.cells < 1:
            raise ValueError(f'cells: {self.cells}; must be at least 1')
        for name in ('relation_weight', 'response_weight'):
            if not getattr(self, name) >= 0:
                raise ValueError(f'{name}: {getattr(self, name)}; must be at least 0')


class Relations(NamedTuple):
    """
    Tokens of objects and what attention among the objects of an image makes of them.

    :param tokens: (B, N, C), 0 in empty slots.
    :param log_attention: (B, N, N) logarithm of a, where both slots hold an object; 0 elsewhere.
    :param response: (B, N, C) r = a u; of an empty slot it means nothing.
    """

    tokens: Tensor
    log_attention: Tensor
    response: Tensor


class Tsrd(Transfer):
    """
    KL(a_T || a_S), mean over the objects that are not alone in their image, + L1(r_T, r_S).

    The token of object i is u_i = t_i / d + p_i: t_i is the mean of its 7x7 RoI or its matched
    query, d the running deviation of the teacher's t over objects, p_i the sinusoidal encoding of
    the label's 3D centre (in the camera frame, or around the vehicle for a detector of several
    cameras), the same for both networks. a_ij = softmax_j(cos(u_i, u_j) / 0.1) over the objects j
    of i's image, or rig, i included; r_i = sum_j a_ij u_j; L1 is the mean over channels, in
    deviations of the teacher. No weights are learnt: a projection could solve the task in the
    student's place.

    Choices: p has mean square 1, and so has the part of t / d that differs between objects:
    neither drowns the other. t is not centred: in trained MonoDLEs, the cosine of two different
    objects is then 0.8 on average and an object attends to itself by a half (median), so that
    temperature 0.1 leaves relations to compare; centred, it would attend to itself by 0.97. i
    itself is included, so that two objects already have a relation, and the response of a lone
    object is its token. Whose relations: a row is a distribution over the objects of one image,
    and rows of both networks are paired, so the order of slots does not matter.

    :param config: options.
    :param student: detector whose features learn.
    :param teacher: frozen detector of as many channels.
    :raises ValueError: for a level that a network lacks or that lies upstream of given depth, and
        for different channels: without learnt weights, they cannot be compared.
    """

    def __init__(self, config: TsrdConfig, student: Detector, teacher: Detector) -> None:
        """Build the statistics."""
        super().__init__()
        self.config = config
        self.level, channels = _compared_tokens(config.level, student, teacher)
        self.statistics = RunningChannelStatistics(channels, config.momentum)
        self._parts: dict[str, Tensor] = {}

    def forward(self, view: DistillView, normalizer: StepNormalizer) -> dict[str, Tensor]:
        """Return {'': the loss}; 0 when no object is valid."""
        teacher, student = self.relations(view, normalizer)
        valid = view.targets.valid
        relation = relation_loss(student, teacher, valid, normalizer)
        response = response_loss(student, teacher, valid, normalizer)
        self._parts = {'relation': relation.detach(), 'response': response.detach()}
        config = self.config
        return {'': config.relation_weight * relation + config.response_weight * response}

    def step_metrics(self) -> dict[str, Tensor]:
        """Return both unweighted parts of the last loss."""
        return self._parts

    def relations(
        self, view: DistillView, normalizer: StepNormalizer
    ) -> tuple[Relations, Relations]:
        """
        Return the relations of the teacher, without gradient, and of the student.

        In training mode, the teacher's tokens are added to the statistics.
        """
        valid = view.targets.valid
        targets = _without_empty_slots(view.targets)
        teacher, student = (
            torch.where(valid[..., None], self._tokens(each, targets, view.size_px), 0.0)
            for each in (view.teacher, view.student)
        )
        teacher = teacher.detach()
        position = sinusoidal_encoding(object_centers(targets, view.P), teacher.shape[-1])
        position = torch.where(valid[..., None], position, 0.0).to(teacher.dtype)
        # the statistics take maps: a slot is a cell, and belongs to the object of this slot
        slots = torch.diag_embed(valid)[..., None]
        statistics = self.statistics(
            teacher.transpose(1, 2)[..., None], slots, view.epoch, normalizer
        )
        deviation = bounded_deviation(statistics)
        temperature = self.config.temperature
        return (
            relate(teacher / deviation + position, valid, temperature),
            relate(student / deviation + position, valid, temperature),
        )

    def _tokens(
        self, outputs: NetworkOutputs, targets: ObjectTargets, size_px: tuple[int, int]
    ) -> Tensor:
        """Return t (B, N, C), at least float32; of empty slots it means nothing."""
        if self.level is None:
            assert outputs.tokens is not None, 'a detector with token_channels returned none'
            return outputs.tokens.to(torch.promote_types(outputs.tokens.dtype, torch.float32))
        slots = targets.valid.shape
        indices = torch.arange(targets.valid.numel(), device=targets.valid.device)
        rois = self.level.plane.object_rois(targets, size_px, indices)
        box = rois[:, 1:].unflatten(0, slots)
        return mean_of_boxes(outputs.level(self.level.name).map, box, self.config.cells)


def relate(tokens: Tensor, valid: Tensor, temperature: float) -> Relations:
    """
    Compute attention among the objects of each image and their responses.

    :param tokens: (B, N, C), finite in all slots.
    :param valid: (B, N) bool, slots that hold an object.
    :param temperature: by which cosines are divided.
    :return: the relations; those of an object do not depend on empty slots.
    """
    direction = F.normalize(tokens, dim=-1, eps=1e-6)
    cosine = direction @ direction.transpose(1, 2)
    pair = valid[:, :, None] & valid[:, None]
    # an empty slot attends to itself: a softmax over nothing would be NaN
    itself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    logits = (cosine / temperature).masked_fill(~(pair | itself), -torch.inf)
    log_attention = logits.log_softmax(-1)
    response = log_attention.exp() @ tokens
    return Relations(tokens, torch.where(pair, log_attention, 0.0), response)


def relation_loss(
    student: Relations, teacher: Relations, valid: Tensor, normalizer: StepNormalizer
) -> Tensor:
    """
    Compute the mean of KL(a_T || a_S) over the objects that have company in their image.

    :param student: gradients flow.
    :param teacher: without gradient.
    :param valid: (B, N) bool.
    :param normalizer: normaliser of the step.
    :return: scalar, at least 0; 0 without an image of two objects.
    """
    pair = valid[:, :, None] & valid[:, None]
    gap = teacher.log_attention - student.log_attention
    divergence = torch.where(pair, teacher.log_attention.exp() * gap, 0.0).sum(-1)
    in_company = valid & (valid.sum(1, keepdim=True) > 1)
    return masked_mean(divergence, in_company, normalizer)


def response_loss(
    student: Relations, teacher: Relations, valid: Tensor, normalizer: StepNormalizer
) -> Tensor:
    """
    Compute the mean over objects and channels of |r_T - r_S|, in deviations of the teacher.

    :param student: gradients flow.
    :param teacher: without gradient.
    :param valid: (B, N) bool.
    :param normalizer: normaliser of the step.
    :return: scalar, at least 0; 0 without objects.
    """
    return masked_mean((teacher.response - student.response).abs(), valid, normalizer)


def _without_empty_slots(targets: ObjectTargets) -> ObjectTargets:
    """Return the targets with all numbers 0 in empty slots, whatever these hold."""
    valid = targets.valid
    cleared = {}
    for field in fields(targets):
        value = getattr(targets, field.name)
        is_column = value is not None and value.shape[:2] == valid.shape and value.dim() < 4
        if is_column and value.is_floating_point():
            shape = valid.shape + (1,) * (value.dim() - 2)
            cleared[field.name] = torch.where(valid.view(shape), value, 0.0)
    return replace(targets, **cleared)


def _compared_tokens(
    name: str, student: Detector, teacher: Detector
) -> tuple[LevelSpec | None, int]:
    """Return the compared level, None for queries, and the number of channels of a token."""
    level = None
    if name == QUERIES:
        channels = tuple(_token_channels(net) for net in (student, teacher))
    else:
        level, to_level = compared_level(name, student, teacher)
        channels = (level.channels, to_level.channels)
    if channels[0] != channels[1]:
        raise ValueError(
            f'level {level.name if level else QUERIES!r}: {channels[0]} channels in the student,'
            f' {channels[1]} in the teacher; expected a teacher of the same architecture'
        )
    return level, channels[0]


def _token_channels(net: Detector) -> int:
    """Return the channels of a detector's queries; ValueError for a detector without."""
    channels = int(getattr(net, 'token_channels', 0))
    if not channels:
        after = ', '.join(each.name for each in net.levels if each.after_given_depth)
        raise ValueError(
            f'level {QUERIES!r}: {type(net).__name__} has no queries;'
            f' choose from: {after or "none"}'
        )
    return channels
