"""Optimisation: AdamW, learning-rate schedules, clipping, loss scaling, weight averaging."""

from stl_core.training.optim.config import (
    LrAndBeta,
    OptimConfig,
    cosine_interpolate,
    schedule_at,
)
from stl_core.training.optim.model_ema import ModelEma
from stl_core.training.optim.optimizer import (
    MIN_LOSS_SCALE,
    GradientNorms,
    Optimizer,
    optimizer_groups,
)

__all__ = [
    'MIN_LOSS_SCALE',
    'GradientNorms',
    'LrAndBeta',
    'ModelEma',
    'OptimConfig',
    'Optimizer',
    'cosine_interpolate',
    'optimizer_groups',
    'schedule_at',
]
