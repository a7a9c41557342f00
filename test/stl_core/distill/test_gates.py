"""Controls of the sigma gate: equal means in every step, closed forms, logged figures."""

import dataclasses

import numpy as np
import pytest
import torch
from fake_views import evaluate, make_view, with_sigma, with_targets, with_teacher
from scipy import stats

from stl_core.distill import LOSSES, distiller, gates
from stl_core.distill.losses.feature import FeatureLossConfig, gated_weights, object_weights
from stl_core.distill.losses.relation import RelationLossConfig, pair_gates
from stl_core.tensors import reductions, regions
from stl_core.tensors.reductions import SINGLE_PART

CONTROLS = (gates.NONE, gates.DISTANCE, gates.PERMUTED)
every_gate = pytest.mark.parametrize('kind', gates.GATES)
every_control = pytest.mark.parametrize('kind', CONTROLS)


def a_view(counts=(6, 3, 4)):
    """Return a view with three classes."""
    view = make_view('gates', counts, 8, (96, 320), channels=(2, 3, 4))
    class_id = torch.arange(8).remainder(3).expand(len(counts), 8)
    return with_targets(view, class_id=class_id)


def weights(view, kind, normalizer=SINGLE_PART):
    return gated_weights(view, FeatureLossConfig(gate=kind), normalizer)


def pairs(view, kind, **options):
    config = RelationLossConfig(gate=kind, **options)
    return pair_gates(view, config, regions.valid_indices(view.targets), SINGLE_PART)


@every_gate
def test_all_gates_have_the_mean_of_the_sigma_gate(kind):
    view = a_view()
    valid = view.targets.valid
    torch.testing.assert_close(
        weights(view, kind)[valid].mean(), object_weights(view, FeatureLossConfig())[valid].mean()
    )
    for across in (0.0, 0.5):
        weight, gate = pairs(view, kind, across_images=across)
        _, by_sigma = pairs(view, None, across_images=across)
        torch.testing.assert_close((weight * gate).sum(), (weight * by_sigma).sum())


def test_without_option_the_gate_is_that_by_sigma():
    view = a_view()
    config = FeatureLossConfig()
    assert torch.equal(weights(view, None), object_weights(view, config))
    assert torch.equal(weights(view, gates.SIGMA), object_weights(view, config))
    sigma = view.teacher.depth_sigma_m[view.targets.valid]
    expected = 1 / (1 + (sigma[:, None] ** 2 + sigma**2) / 2)
    torch.testing.assert_close(pairs(view, gates.SIGMA)[1], expected)


def test_no_gate_gives_every_object_the_same_weight():
    view = a_view()
    found = weights(view, gates.NONE)[view.targets.valid]
    assert (found == found[0]).all()


def test_a_permuted_gate_holds_the_weights_of_each_class_in_another_order():
    view = a_view((8, 8, 8))
    given, found = weights(view, gates.SIGMA), weights(view, gates.PERMUTED)
    for label in range(3):
        of_class = view.targets.class_id == label
        torch.testing.assert_close(
            found[of_class].sort().values, given[of_class].sort().values, rtol=1e-6, atol=0
        )
    assert (found != given).float().mean() > 0.5
    assert torch.equal(found, weights(view, gates.PERMUTED))  # of the step, not of the call
    later = dataclasses.replace(view, epoch=0.25)
    assert not torch.equal(found, weights(later, gates.PERMUTED))


def test_every_permutation_within_a_class_is_as_likely():
    value, label = torch.tensor([[0.0, 1.0, 2.0, 5.0]]), torch.tensor([[1, 1, 1, 0]])
    valid = torch.ones(1, 4, dtype=torch.bool)
    rows = [
        tuple(gates.permute_in_class(value, label, valid, step / 600)[0].tolist())
        for step in range(600)
    ]
    found, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(found) == 6
    assert (found[:, 3] == 5).all()
    assert stats.chisquare(counts).pvalue > 0.001


def test_a_distance_gate_falls_with_distance_and_halves_at_one_distance():
    distance = torch.tensor([2.0, 5.0, 10.0, 20.0, 40.0, 80.0])
    exact = 1 / (1 + (distance / 16.0) ** 2)
    shuffled = exact[torch.tensor([3, 0, 5, 1, 4, 2])]  # of that mean, but not by distance
    found = gates.control_gate(
        gates.DISTANCE, shuffled, shuffled, distance, torch.ones(6), SINGLE_PART
    )
    assert float(found.mean()) == pytest.approx(float(exact.mean()))
    torch.testing.assert_close(found, exact, rtol=0, atol=0.02)  # a mix of two half distances
    assert (found.diff() < 0).all()
    assert 0 < float(found.min())


@pytest.mark.parametrize('mean', [1e-6, 0.3, 1.0])
def test_any_mean_is_reached(mean):
    distance, given = torch.tensor([3.0, 30.0]), torch.full((2,), mean)
    found = gates.control_gate(gates.DISTANCE, given, given, distance, torch.ones(2), SINGLE_PART)
    assert float(found.mean()) == pytest.approx(mean, rel=1e-4)


@every_control
@pytest.mark.parametrize('name', ['feature', 'relation'])
def test_a_loss_whose_sigmas_are_equal_does_not_depend_on_gate_except_by_distance(name, kind):
    """Closed form: with one sigma everywhere all gates are the same constant."""
    view = with_sigma(with_sigma(a_view(), 'teacher', 2.0), 'student', 1.0)
    value, control = evaluate(name, view), evaluate(name, view, gate=kind)
    if kind == gates.DISTANCE:
        assert float(control) != pytest.approx(float(value), rel=1e-5)
    else:
        torch.testing.assert_close(control, value)


@every_gate
@pytest.mark.parametrize('name', ['feature', 'relation'])
def test_no_and_one_object_and_empty_slots_of_any_content(name, kind):
    for counts in ((0, 0), (1, 0)):
        view = a_view(counts)
        empty = ~view.targets.valid
        nan = torch.where(empty, torch.nan, view.teacher.depth_sigma_m)
        depth_m = torch.where(empty, torch.nan, view.targets.depth_m)
        filled = with_targets(with_teacher(view, depth_sigma_m=nan), depth_m=depth_m)
        value = evaluate(name, filled, gate=kind)
        assert value.isfinite()
        torch.testing.assert_close(value, evaluate(name, view, gate=kind))
        config = LOSSES[name].config(gate=kind)
        figures = LOSSES[name].metrics(filled, config, SINGLE_PART)
        assert all(each.isfinite() for each in figures.values())


@pytest.mark.parametrize('kind', [gates.NONE, gates.DISTANCE])
def test_parts_of_a_step_share_one_mean(kind):
    """Micro-batches of three images have the weights of the whole batch."""
    view = a_view()
    config = FeatureLossConfig(gate=kind)
    parts = [rows_of(view, row) for row in range(3)]
    recorded = []
    for part in parts:
        recorded.append([])
        gated_weights(part, config, reductions.recording_normalizer(recorded[-1]))
    means = [torch.stack(each).mean(0) for each in zip(*recorded, strict=True)]
    found = [
        gated_weights(part, config, reductions.replaying_normalizer(means, 3)) for part in parts
    ]
    valid = view.targets.valid
    torch.testing.assert_close(
        torch.cat(found)[valid], gated_weights(view, config, SINGLE_PART)[valid]
    )


def rows_of(view, row):
    columns = {
        each.name: getattr(view.targets, each.name)[row : row + 1]
        for each in dataclasses.fields(view.targets)
    }
    sides = {
        name: dataclasses.replace(
            getattr(view, name), depth_sigma_m=getattr(view, name).depth_sigma_m[row : row + 1]
        )
        for name in ('student', 'teacher')
    }
    return dataclasses.replace(with_targets(view, **columns), **sides)


@pytest.mark.parametrize('name', ['feature', 'relation'])
def test_logged_figures_of_a_gate(name):
    view = a_view()
    losses = {name: LOSSES[name].config()}
    figures = distiller.function_metrics(view, losses, SINGLE_PART)
    prefix = f'distill/{name}/gate'
    valid, distance = view.targets.valid, view.targets.depth_m
    if name == 'feature':
        values = object_weights(view, losses[name])[valid]
        expected = stats.spearmanr(values, distance[valid]).statistic
    else:
        weight, gate = pairs(view, None)
        values = gate[weight > 0]
        of_object = (weight * gate).sum(1) / weight.sum(1)
        expected = stats.spearmanr(of_object, distance[valid]).statistic
    assert float(figures[f'{prefix}_mean']) == pytest.approx(float(values.mean()))
    assert float(figures[f'{prefix}_deviation']) == pytest.approx(
        float(values.std(correction=0)), rel=1e-4
    )
    assert float(figures[f'{prefix}_distance_rank']) == pytest.approx(expected, abs=1e-5)
    by_distance = {name: LOSSES[name].config(gate=gates.DISTANCE)}
    if name == 'feature':
        found = distiller.function_metrics(view, by_distance, SINGLE_PART)
        assert float(found[f'{prefix}_distance_rank']) == pytest.approx(-1)
    none = distiller.function_metrics(
        view, {name: LOSSES[name].config(gate=gates.NONE)}, SINGLE_PART
    )
    assert float(none[f'{prefix}_deviation']) == 0
    assert float(none[f'{prefix}_distance_rank']) == 0


def test_rank_correlation_with_ties_is_that_of_scipy():
    one = torch.tensor([1.0, 2.0, 2.0, 3.0, 0.5, torch.nan])
    other = torch.tensor([4.0, 4.0, 1.0, 9.0, 2.0, 7.0])
    valid = torch.tensor([True] * 5 + [False])
    expected = stats.spearmanr(one[:5], other[:5]).statistic
    assert float(gates.rank_correlation(one, other, valid)) == pytest.approx(expected, abs=1e-6)


def test_an_unknown_gate_is_refused():
    with pytest.raises(ValueError, match=r"gate: 'random' is unknown; known: sigma, none"):
        FeatureLossConfig(gate='random')
