"""The distillation losses. A new one is one file, or function, and one line in LOSSES."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from stl_core.distill.losses import baselines, feature, relation, response


class LossEntry(NamedTuple):
    """
    A distillation loss.

    :param loss: (view, config) -> unweighted scalar.
    :param config: dataclass of its numbers.
    :param compares_features: whether it asks for view.levels(), so for layers between.
    :param compares_predictions: whether it compares what heads say, which must mean the same.
    """

    loss: Callable[..., Tensor]
    config: type[Any]
    compares_features: bool = True
    compares_predictions: bool = False


_COMPARES_PREDICTIONS = {'compares_features': False, 'compares_predictions': True}

LOSSES: dict[str, LossEntry] = {
    'feature': LossEntry(feature.feature_loss, feature.FeatureLossConfig),
    'feature_public': LossEntry(feature.public_feature_loss, feature.PublicFeatureLossConfig),
    'relation': LossEntry(relation.relation_loss, relation.RelationLossConfig),
    'relation_public': LossEntry(relation.public_relation_loss, relation.PublicRelationLossConfig),
    'response': LossEntry(
        response.response_loss, response.ResponseLossConfig, **_COMPARES_PREDICTIONS
    ),
    'plain_response': LossEntry(
        baselines.plain_response_loss, baselines.BaselineConfig, **_COMPARES_PREDICTIONS
    ),
    'plain_feature': LossEntry(baselines.plain_feature_loss, baselines.BaselineConfig),
    'plain_scene': LossEntry(baselines.plain_scene_loss, baselines.BaselineConfig),
    'plain_relation': LossEntry(baselines.plain_relation_loss, baselines.BaselineConfig),
    'plain_heads': LossEntry(
        baselines.plain_heads_loss, baselines.BaselineConfig, **_COMPARES_PREDICTIONS
    ),
}
