"""
Statistics of KITTI's training labels, and random draws from them.

kitti_statistics.json holds aggregates only (bench/synthetic_fit.py makes it): for each class the
quantiles of sizes, positions and box heights, correlations of sizes, fractions of directions,
occlusion levels and difficulties, and the number of objects per frame.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stl_core.evaluation.kitti_matching import DIFFICULTIES
from stl_core.types import Array, Labels

STATISTICS_FILE = Path(__file__).with_name('kitti_statistics.json')
CLASSES = ('Car', 'Van', 'Truck', 'Pedestrian', 'Cyclist')

#: Levels of the tabulated quantile functions; linear interpolation in between.
QUANTILE_LEVELS = (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)

#: Measures compared class by class.
MEASURES = ('height_m', 'width_m', 'length_m', 'x_m', 'y_m', 'z_m', 'alpha', 'box_height_px')


def draw_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw from [low, high): the same number as rng.uniform, several times faster."""
    return low + (high - low) * rng.random()


def scale_draws(draws: Array, low: Array | float, high: Array | float) -> Array:
    """Scale draws from [0, 1) to [low, high), as rng.uniform does."""
    return low + (high - low) * draws


def draw_index(rng: np.random.Generator, weights: Sequence[float] | Array) -> int:
    """Draw an index with these weights: the same as rng.choice draws, several times faster."""
    rising = np.cumsum(weights)
    return int((rising / rising[-1]).searchsorted(rng.random(), side='right'))


@dataclass(frozen=True)
class ClassStatistics:
    """
    Label statistics of one class.

    :param mean: mean by measure, see MEASURES.
    :param std: standard deviation by measure.
    :param quantiles: quantiles at QUANTILE_LEVELS by measure.
    :param size_correlation: (3, 3) of the logarithms of height, width, length.
    :param counts: fraction of frames with 0, 1, 2, ... objects of the class.
    :param directions: fractions of rotation_y away (-pi/2), towards (pi/2), across.
    :param occluded: fractions of the occlusion levels 0 1 2 3.
    :param truncated: fraction of objects that leave the image.
    :param difficulty: fractions in easy, moderate, hard (each includes the one before).
    """

    mean: dict[str, float]
    std: dict[str, float]
    quantiles: dict[str, list[float]]
    size_correlation: list[list[float]]
    counts: list[float]
    directions: list[float]
    occluded: list[float]
    truncated: float
    difficulty: list[float]

    def draw(self, measure: str, rng: np.random.Generator, count: int) -> Array:
        """Draw values of a measure from its quantile function: (count,)."""
        return np.interp(rng.random(count), QUANTILE_LEVELS, self.quantiles[measure])

    def draw_sizes(self, rng: np.random.Generator, count: int) -> Array:
        """Draw height, width, length with their quantile functions and correlation: (count, 3)."""
        normal = rng.standard_normal((count, 3)) @ self._correlation_cholesky.T
        level = 1 / (
            1 + np.exp(-1.702 * normal)
        )  # logistic approximation of the normal CDF, to 0.01
        names = ('height_m', 'width_m', 'length_m')
        columns = [
            np.interp(level[:, i], QUANTILE_LEVELS, self.quantiles[name])
            for i, name in enumerate(names)
        ]
        return np.stack(columns, 1)

    @cached_property
    def _correlation_cholesky(self) -> Array:
        return np.linalg.cholesky(np.array(self.size_correlation) + 1e-6 * np.eye(3))

    def draw_count(self, rng: np.random.Generator) -> int:
        """Draw the number of objects of the class in a frame."""
        return draw_index(rng, self.counts)


@lru_cache(maxsize=1)
def load_kitti_statistics() -> dict[str, ClassStatistics]:
    """Return the statistics of KITTI's training labels by class."""
    stored = json.loads(STATISTICS_FILE.read_text())
    return {name: ClassStatistics(**figures) for name, figures in stored['classes'].items()}


def measure_labels(labels: Labels) -> dict[str, Array]:
    """Return the measures of N labels, {measure: (N,)}; y of the box's bottom, as in KITTI."""
    size, center, box = labels.size_hwl_m, labels.center_m, labels.box_px
    columns = (*size.T, center[:, 0], center[:, 1] + size[:, 0] / 2, center[:, 2])
    return dict(zip(MEASURES, (*columns, labels.alpha, box[:, 3] - box[:, 1]), strict=True))


def summarise_labels(frames: Sequence[Labels], name: str) -> dict[str, Any]:
    """
    Compute the statistics of the labels of a class.

    :param frames: the labels of each frame.
    :param name: the class.
    :return: the fields of ClassStatistics except size_correlation; numbers rounded.
    """
    class_labels = [labels[labels.name == name] for labels in frames]
    counts = np.bincount([len(labels) for labels in class_labels]) / max(1, len(class_labels))
    joined = Labels.concatenate(class_labels)
    values = {key: column for key, column in measure_labels(joined).items() if len(column)}
    turn = np.sin(joined.rotation_y)
    directions = [(turn < -0.8).mean(), (turn > 0.8).mean(), (np.abs(turn) <= 0.8).mean()]
    height = joined.box_px[:, 3] - joined.box_px[:, 1]
    difficulty = [
        (
            (height >= each.min_height_px)
            & (joined.occluded <= each.max_occluded)
            & (joined.truncated <= each.max_truncated)
        ).mean()
        for each in DIFFICULTIES.values()
    ]
    return {
        'mean': {key: round(float(v.mean()), 4) for key, v in values.items()},
        'std': {key: round(float(v.std()), 4) for key, v in values.items()},
        'quantiles': {
            key: np.quantile(v, QUANTILE_LEVELS).round(3).tolist() for key, v in values.items()
        },
        'counts': counts.round(5).tolist(),
        'directions': np.round(directions, 4).tolist(),
        'occluded': [round(float((joined.occluded == k).mean()), 4) for k in range(4)],
        'truncated': round(float((joined.truncated > 0).mean()), 4),
        'difficulty': np.round(difficulty, 4).tolist(),
    }
