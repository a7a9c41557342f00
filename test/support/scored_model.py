"""A trainable model with an optimiser group and step metrics and its runs."""

import dataclasses

import torch
from small_run import small_config
from torch import nn
from torch.nn.utils import parametrizations

from stl_core.tensors.optim_group import OptimGroupConfig
from stl_core.tensors.reductions import masked_mean
from stl_core.training import model_builder, optim, trainer
from stl_core.training.resolved_config import resolve_config

GROUP = 'toy/scorer'


class ScoredModel(nn.Module):
    """
    A supervised detector, and a scorer that separates its finest features from noise.

    The scorer is in a group; its loss sees detached features. The detector's additional loss sees
    the scorer's weights detached. The step metric is the fraction of cells scored as features.
    """

    def __init__(self, model, **options):
        super().__init__()
        self.model, self.detector = model, model.detector
        channels = self.detector.levels[0].channels
        self.scorer = parametrizations.spectral_norm(nn.Conv2d(channels, 1, 1))
        self.config = OptimGroupConfig(lr=2e-3, betas=(0.5, 0.999), max_norm=0.5, **options)
        self.detector.register_forward_hook(self._keep_features)

    def _keep_features(self, module, inputs, out):
        self._features = out.features[0].float()

    def optimizer_groups(self):
        return {GROUP: (self.config, list(self.scorer.parameters()))}

    def step_metrics(self):
        return {'right': self._right}

    def forward(self, batch, epoch, normalizer):
        losses, features = self.model(batch, epoch, normalizer), self._features
        weight, bias = self.scorer.weight, self.scorer.bias
        everywhere = torch.ones_like(features[:, :1], dtype=torch.bool)

        def mean(value):
            return masked_mean(value, everywhere, normalizer)

        score = nn.functional.conv2d(features.detach(), weight, bias)
        fooled = nn.functional.conv2d(features, weight.detach(), bias.detach())
        softplus = nn.functional.softplus
        self._right = mean((score > 0).float())
        return {
            **losses,
            'det/toy_scorer': mean(softplus(-score) + softplus(bias.expand_as(score))),
            'det/toy_fooled': mean(softplus(fooled)),
        }


def scored(resolved):
    return ScoredModel(model_builder.build_model(resolved))


def scored_config(scenes, out, **changes):
    """Return a small run with frozen norms that saves every epoch."""
    numbers = optim.OptimConfig(lr=1e-3, warmup_epochs=1, freeze_norm_at=0.0, ema=0.9)
    changes = {'epochs': 3, 'batch_size': 5, 'save_every': 1, 'optim': numbers} | changes
    config = small_config(scenes, out, **changes)
    weights = {**config.weights, 'det/toy_scorer': 1.0, 'det/toy_fooled': 0.1}
    return dataclasses.replace(config, weights=weights)


def fit_scored(scenes, out, model_factory=scored, **changes):
    trainer.fit(resolve_config(scored_config(scenes, out, **changes)), model_factory)
