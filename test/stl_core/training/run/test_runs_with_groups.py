"""Runs of a model with an optimiser group: resume, other groups, micro-batches, tables, files."""

import csv
import multiprocessing
import signal

import pytest
import torch
from kitti_scenes import make_scenes
from run_folder_processes import train_scored_until_killed
from safetensors.torch import load_file
from scored_model import GROUP, ScoredModel, fit_scored, scored, scored_config
from small_run import assert_equal_weights, weights_of

from stl_core.data import dataset
from stl_core.training import model_builder, optim, train_step
from stl_core.training.checkpoint import CheckpointError
from stl_core.training.resolved_config import resolve_config

pytestmark = pytest.mark.usefixtures('one_thread')
STATE_KEY = f'optimizer/{GROUP}'


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('kitti'), frames=7)


@pytest.fixture(scope='module')
def finished(scenes, tmp_path_factory):
    """Return the folder of a finished run; batches of 4 and 3 images, three epochs."""
    out = tmp_path_factory.mktemp('one')
    fit_scored(scenes, out)
    return out


def read_rows(out):
    with (out / 'curves.csv').open() as file:
        rows = list(csv.DictReader(file))
    return [{k: float(v) for k, v in row.items() if k != 'images_per_s'} for row in rows]


def moments_of(out, key):
    """Return the moments in a checkpoint, {name: tensor}."""
    state = torch.load(out / 'last.pt', weights_only=True)[key]['state']
    return {
        f'{index}.{name}': value for index, each in state.items() for name, value in each.items()
    }


def test_metrics_and_norms_of_groups_are_columns(finished):
    rows = read_rows(finished)
    assert len(rows) == 3
    for row in rows:
        assert 0 <= row['metric/right'] <= 1
        assert row[f'grad_norm/{GROUP}'] > 0
    assert len({row['metric/right'] for row in rows}) == 3
    assert rows[-1]['det/toy_scorer'] < rows[0]['det/toy_scorer']
    assert (finished / 'curves.png').stat().st_size > 0


def test_checkpoints_hold_the_group_and_model_files_do_not(finished):
    assert sorted(moments_of(finished, STATE_KEY)) == sorted(
        f'{index}.{name}' for index in (0, 1) for name in ('step', 'exp_avg', 'exp_avg_sq')
    )
    assert any(name.startswith('scorer.') for name in weights_of(finished))
    names = load_file(finished / 'student.safetensors').keys()
    detector = scored(resolve_config(scored_config(finished, finished))).detector
    assert names == detector.state_dict().keys()


def test_a_killed_run_resumes_bit_for_bit(scenes, finished, tmp_path):
    """Killed before the last step of the second epoch."""
    worker = multiprocessing.get_context('spawn').Process(
        target=train_scored_until_killed, args=(scenes, tmp_path, 3)
    )
    worker.start()
    worker.join(300)
    assert worker.exitcode == -signal.SIGKILL
    assert torch.load(tmp_path / 'last.pt', weights_only=True)['epoch'] == 1
    fit_scored(scenes, tmp_path)
    assert_equal_weights(weights_of(tmp_path), weights_of(finished))
    for key in ('optimizer', STATE_KEY):
        assert_equal_weights(moments_of(tmp_path, key), moments_of(finished, key))
    assert read_rows(tmp_path) == read_rows(finished)
    model_files = [(out / 'student.safetensors').read_bytes() for out in (finished, tmp_path)]
    assert model_files[0] == model_files[1]


class Ungrouped(ScoredModel):
    """The same weights, all of them in the main optimiser."""

    def optimizer_groups(self):
        return {}


def ungrouped(resolved):
    return Ungrouped(model_builder.build_model(resolved))


def test_a_checkpoint_of_other_groups_is_refused_by_name(scenes, finished):
    before = (finished / 'last.pt').read_bytes()
    with pytest.raises(CheckpointError, match=f'optimiser groups: {GROUP}; expected: none'):
        fit_scored(scenes, finished, ungrouped)
    assert (finished / 'last.pt').read_bytes() == before


@pytest.mark.parametrize('num_micro_batches', [2, 5])
def test_micro_batches_take_the_step_of_the_whole_batch(scenes, num_micro_batches):
    results = {}
    for parts in (1, num_micro_batches):
        config = scored_config(scenes, scenes)
        frames = dataset.FrameDataset(config.train, config.input, config.classes, config.seed)
        batch = dataset.collate([frames[0, index] for index in range(5)], 50)
        torch.manual_seed(0)
        # the power iteration of the spectral norm advances with every forward pass in training
        model = scored(resolve_config(config)).eval()
        optimizer = optim.Optimizer(
            model, model.detector, config.optim, 'fp32', optim.optimizer_groups(model)
        )
        before = {name: value.clone() for name, value in model.scorer.state_dict().items()}
        figures = train_step.train_step(
            model, batch, optimizer, config.weights, 0, num_micro_batches=parts
        )
        gradients = {name: p.grad for name, p in model.scorer.named_parameters()}
        results[parts] = figures, gradients
        moved = [not torch.equal(v, before[k]) for k, v in model.scorer.state_dict().items()]
        assert any(moved)
    (expected, expected_gradients), (figures, gradients) = results.values()
    assert figures.keys() == expected.keys()
    assert {'metric/right', f'grad_norm/{GROUP}'} <= figures.keys()
    for name, value in expected.items():
        assert float(figures[name]) == pytest.approx(float(value), rel=1e-5), name
    for name, value in expected_gradients.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-5, atol=1e-7)


def test_metrics_enter_no_sum(scenes):
    config = scored_config(scenes, scenes)
    frames = dataset.FrameDataset(config.train, config.input, config.classes, config.seed)
    batch = dataset.collate([frames[0, index] for index in range(2)], 50)
    model = scored(resolve_config(config)).eval()
    optimizer = optim.Optimizer(
        model, model.detector, config.optim, 'fp32', optim.optimizer_groups(model)
    )
    figures = train_step.train_step(model, batch, optimizer, config.weights, 0)
    expected = sum(weight * float(figures[name]) for name, weight in config.weights.items())
    assert float(figures['total']) == pytest.approx(expected, rel=1e-5)
    assert not any(name.startswith('metric/') for name in config.weights)
