"""The fresh-scorer check: does a new scorer separate a network's features from the teacher's?"""

import numpy as np
import pytest
import torch

from stl_core.distill.scorer import balanced_weights
from stl_core.experiments.inspection.fresh_scorer import (
    FrozenFeatures,
    ScorerTraining,
    bootstrap_mean,
    measure_separation,
)

SMALL = ScorerTraining(steps=60, frames=8, lr=5e-3, width=8, seeds=2)
CPU = torch.device('cpu')


def features(offsets, frames=40, size=(6, 12)):
    """Normal noise with another offset in every network, on frames of one object of 2x3 cells."""
    generator = torch.Generator().manual_seed(0)
    cells = torch.zeros(frames, 1, *size, dtype=torch.bool)
    cells[:, 0, 2:4, 3:6] = True

    def noise(offset):
        return torch.randn(frames, 4, *size, generator=generator) + offset

    networks = {name: noise(offset) for name, offset in offsets.items()}
    controls = dict.fromkeys(networks, 'control')
    return FrozenFeatures(noise(0.0), networks, controls, balanced_weights(cells))


def test_a_network_of_another_distribution_is_separated_and_one_of_the_same_is_not():
    made = features({'control': 1.0, 'student': 0.15, 'twin': 0.0})
    control, student, twin = measure_separation(made, SMALL, CPU)
    assert control.name == 'control'
    assert control.accuracy > 0.9
    assert control.below_control == 0
    assert control.below_interval == (0, 0)
    assert 0.5 < student.accuracy < control.accuracy - 0.1
    assert student.below_interval[0] > 0.05
    assert student.below_control == pytest.approx(control.accuracy - student.accuracy)
    assert twin.accuracy == pytest.approx(0.5, abs=0.06)
    assert twin.interval[0] < 0.51
    assert twin.interval[1] > 0.49


def test_the_scale_of_a_channel_and_frames_without_objects_change_nothing():
    made = features({'control': 0.5})
    (row,) = measure_separation(made, SMALL, CPU)
    scale = torch.tensor([3.0, 3.0, 3.0, 3.0])[:, None, None]
    weight = torch.cat([made.cells_weight, torch.zeros(1, 6, 12)])
    bigger = FrozenFeatures(
        torch.cat([made.teacher * scale, torch.full((1, 4, 6, 12), 1e3)]),
        {'control': torch.cat([made.networks['control'] * scale, torch.zeros(1, 4, 6, 12)])},
        made.control_of,
        weight,
    )
    (other,) = measure_separation(bigger, SMALL, CPU)
    assert other.accuracy == pytest.approx(row.accuracy, abs=2e-3)


def test_too_few_frames_with_an_object_are_refused():
    made = features({'control': 0.5}, frames=3)
    with pytest.raises(ValueError, match='3 frames with an object; expected at least 4'):
        measure_separation(made, SMALL, CPU)


def test_the_interval_of_a_mean_covers_that_of_a_normal_mean():
    value = np.random.default_rng(1).normal(2.0, 1.0, 400)
    mean, (low, high) = bootstrap_mean(value, np.ones(400))
    assert mean == pytest.approx(value.mean())
    half = 1.96 * value.std() / 20
    assert low == pytest.approx(mean - half, abs=0.02)
    assert high == pytest.approx(mean + half, abs=0.02)
    weighted, _ = bootstrap_mean(np.array([0.0, 1.0]), np.array([1.0, 3.0]))
    assert weighted == 0.75
