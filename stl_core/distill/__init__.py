"""The distillation losses. A new one is one file, or function, and one line in LOSSES."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from stl_core.distill.losses import baselines, feature, relation, response


class Entry(NamedTuple):
    """
    A distillation loss.

    :param loss: (view, config) -> unweighted scalar.
    :param config: dataclass of its numbers.
    :param compares_features: whether it asks for view.levels(), so for layers between.
    :param compares_answers: whether it compares what heads say, which must mean the same.
    """

    loss: Callable[..., Tensor]
    config: type[Any]
    compares_features: bool = True
    compares_answers: bool = False


_ANSWERS = {'compares_features': False, 'compares_answers': True}

LOSSES: dict[str, Entry] = {
    'feature': Entry(feature.loss, feature.Config),
    'feature_public': Entry(feature.public_loss, feature.PublicConfig),
    'relation': Entry(relation.loss, relation.Config),
    'relation_public': Entry(relation.public_loss, relation.PublicConfig),
    'response': Entry(response.loss, response.Config, **_ANSWERS),
    'plain_response': Entry(baselines.response, baselines.Config, **_ANSWERS),
    'plain_feature': Entry(baselines.feature, baselines.Config),
    'plain_scene': Entry(baselines.scene, baselines.Config),
    'plain_relation': Entry(baselines.relation, baselines.Config),
    'plain_heads': Entry(baselines.heads, baselines.Config, **_ANSWERS),
}
