"""
Registry of the distillation losses: LOSSES maps a name to a loss function and its configuration.

A new loss is one function, or one Transfer, in a file of stl_core/distill/losses/ and one line in
LOSSES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from stl_core.distill.losses import asb, baselines, cpl, feature, relation, response, tsrd, vda
from stl_core.distill.transfer import Transfer
from stl_core.distill.view import DistillView
from stl_core.tensors.detector import Detector
from stl_core.tensors.reductions import StepNormalizer

#: (inputs, options, normaliser of the step) -> unweighted scalar; see masked_mean for means over
#: objects that are right however a step is split.
DistillLoss = Callable[[DistillView, Any, StepNormalizer], Tensor]


#: The same arguments -> figures of the step that are no losses, by name.
LossMetrics = Callable[[DistillView, Any, StepNormalizer], dict[str, Tensor]]
#: (options, student, teacher) -> the loss for these two networks.
BuildTransfer = Callable[[Any, Detector, Detector], Transfer]


class LossEntry(NamedTuple):
    """
    A distillation loss and the network outputs that it compares.

    :param loss: (view, config, normalizer) -> unweighted scalar; None for a Transfer.
    :param config: dataclass of the loss's options.
    :param compares_features: whether the loss uses view.feature_pairs(), which needs layers
        between student and teacher.
    :param compares_predictions: whether the loss compares head outputs, which must have the same
        meaning in both networks.
    :param build: builds the Transfer for two networks; None for a function.
    :param extra_losses: {name: weight} of what a Transfer returns besides its loss, such as the
        loss of a scorer, which trains no weight that ships: `distill/<key>_<name>`.
    :param metrics: (view, config, normalizer) -> figures of a function that are no losses, () by
        name, without gradient, such as the mean of its gate: columns
        `metric/distill/<key>/<name>`. None for none; a Transfer has step_metrics.
    """

    loss: DistillLoss | None
    config: type[Any]
    compares_features: bool = True
    compares_predictions: bool = False
    build: BuildTransfer | None = None
    extra_losses: Mapping[str, float] = MappingProxyType({})
    metrics: LossMetrics | None = None


LOSSES: dict[str, LossEntry] = {
    'feature': LossEntry(
        feature.feature_loss, feature.FeatureLossConfig, metrics=feature.feature_metrics
    ),
    'feature_public': LossEntry(feature.public_feature_loss, feature.PublicFeatureLossConfig),
    'relation': LossEntry(
        relation.relation_loss, relation.RelationLossConfig, metrics=relation.relation_metrics
    ),
    'relation_public': LossEntry(relation.public_relation_loss, relation.PublicRelationLossConfig),
    'response': LossEntry(response.response_loss, response.ResponseLossConfig, False, True),
    'plain_response': LossEntry(
        baselines.plain_response_loss, baselines.BaselineConfig, False, True
    ),
    'plain_feature': LossEntry(baselines.plain_feature_loss, baselines.BaselineConfig),
    'plain_scene': LossEntry(baselines.plain_scene_loss, baselines.BaselineConfig),
    'plain_relation': LossEntry(baselines.plain_relation_loss, baselines.BaselineConfig),
    'plain_heads': LossEntry(baselines.plain_heads_loss, baselines.BaselineConfig, False, True),
    'vda': LossEntry(None, vda.VdaConfig, False, build=vda.Vda),
    'tsrd': LossEntry(None, tsrd.TsrdConfig, False, build=tsrd.Tsrd),
    'cpl': LossEntry(None, cpl.CplConfig, False, build=cpl.Cpl),
    'asb': LossEntry(None, asb.AsbConfig, False, build=asb.Asb, extra_losses={'scorer': 1.0}),
}
