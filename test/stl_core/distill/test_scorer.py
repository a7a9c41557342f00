"""The scorer of ASB: spectral norm once a step, weights of cells, accuracy."""

import copy

import pytest
import torch

from stl_core.distill.running_statistics import StepMarker
from stl_core.distill.scorer import Scorer, balanced_weights, right_cells, score_cells


def three_images():
    """Cells of three objects, two of which overlap, of one object, and of none."""
    cells = torch.zeros(3, 3, 10, 12, dtype=torch.bool)
    cells[0, 0, 1:4, 1:5] = True
    cells[0, 1, 3:9, 4:7] = True
    cells[0, 2, 8, 10] = True
    cells[1, 0, 2:9, 3:11] = True
    return cells


def test_a_step_runs_one_power_iteration_as_torch_does():
    torch.manual_seed(0)
    scorer = Scorer(5, 8).train()
    twin = copy.deepcopy(scorer.convs[1])
    reference = torch.nn.utils.parametrizations.spectral_norm(twin)
    norm = reference.parametrizations.weight[0]
    norm._u.copy_(scorer.norms[1].left)
    norm._v.copy_(scorer.norms[1].right)
    for step in range(3):
        for _ in range(2):  # two parts of one step
            ours = scorer.effective_weights(float(step))[1].weight
        theirs = reference.weight
        torch.testing.assert_close(ours, theirs)
        ours.square()[0].sum().backward()
        theirs.square()[0].sum().backward()
        original = reference.parametrizations.weight.original
        torch.testing.assert_close(scorer.convs[1].weight.grad, original.grad)


def test_the_largest_singular_value_becomes_one():
    scorer = Scorer(5, 8).train()
    for step in range(200):
        weights = scorer.effective_weights(float(step))
    for each in weights:
        largest = torch.linalg.svdvals(each.weight.detach().flatten(1))[0]
        assert float(largest) == pytest.approx(1, abs=1e-3)


def test_eval_mode_changes_no_buffer_and_without_spectral_norm_weights_are_as_they_are():
    scorer = Scorer(5, 8).eval()
    before = copy.deepcopy(scorer.state_dict())
    scorer.effective_weights(1.0)
    assert all(torch.equal(value, before[key]) for key, value in scorer.state_dict().items())
    plain = Scorer(5, 8, spectral_norm=False).train()
    for each, conv in zip(plain.effective_weights(1.0), plain.convs, strict=True):
        assert each.weight is conv.weight


def test_only_the_first_part_of_a_step_is_new():
    marker = StepMarker().train()
    assert [bool(marker(epoch)) for epoch in (0.0, 0.0, 0.1, 0.1, 0.2)] == [1, 0, 1, 0, 1]
    marker.eval()
    assert not marker(0.3)


def test_scores_are_those_of_the_convolutions():
    torch.manual_seed(0)
    scorer = Scorer(5, 8, spectral_norm=False)
    layers = [*scorer.convs]
    chain = torch.nn.Sequential(
        layers[0], torch.nn.LeakyReLU(0.2), layers[1], torch.nn.LeakyReLU(0.2), layers[2]
    )
    features = torch.randn(2, 5, 6, 7)
    scores = score_cells(features, scorer.effective_weights(0.0))
    torch.testing.assert_close(scores, chain(features)[:, 0])


def test_objects_and_background_have_equal_mass_and_every_object_the_same():
    cells = three_images()
    weight = balanced_weights(cells)
    inside = cells.any(1)
    assert weight[2].sum() == 0
    for image, count in enumerate((3, 1)):
        on_objects, around = weight[image][inside[image]], weight[image][~inside[image]]
        assert float(on_objects.sum()) == pytest.approx(count / 2, rel=1e-5)
        assert float(around.sum()) == pytest.approx(count / 2, rel=1e-5)
        assert around.min() == around.max()
        for slot in range(count):
            alone = cells[image, slot] & (cells[image].sum(0) == 1)
            share = 0.5 / cells[image, slot].sum()
            torch.testing.assert_close(weight[image][alone], share.expand(int(alone.sum())))


def test_without_background_objects_keep_all_their_weight():
    cells = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert float(balanced_weights(cells).sum()) == pytest.approx(1)
    assert balanced_weights(cells & False).sum() == 0


def test_accuracy_counts_both_networks_and_half_of_undecided_scores():
    student, teacher = torch.tensor([-1.0, 1.0, 0.0, -1.0]), torch.tensor([1.0, -1.0, 0.0, 0.0])
    assert right_cells(student, teacher).tolist() == [1.0, 0.0, 0.5, 0.75]
