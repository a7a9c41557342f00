"""A step whose gradient is not finite changes nothing and is counted; many of them end a run."""

import copy
import csv

import numpy as np
import pytest
import torch
from kitti_scenes import make_scenes
from small_run import assert_equal_weights, small_config, weights_of
from sync_recorder import SyncRecorder
from torch import nn

from stl_core.data import dataset
from stl_core.training import model_builder, optim, train_step, trainer
from stl_core.training.model_builder import SupervisedModel
from stl_core.training.resolved_config import resolve_config
from stl_core.training.run import epoch_statistics, saved_buffers
from stl_core.visualization import charts

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr(charts, 'plot_loss_curves', lambda table, path: None)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('kitti'), frames=5)


class Overflowing(SupervisedModel):
    """A detector whose forward pass overflows for one frame, as fp16's activations do."""

    bad_frame = '000003'

    def forward(self, batch, epoch, normalizer):
        if self.bad_frame in batch.ids:
            hook = self.detector.backbone.body.conv_stem.register_forward_hook(
                lambda module, inputs, output: output * torch.inf
            )
            try:
                return super().forward(batch, epoch, normalizer)
            finally:
                hook.remove()
        return super().forward(batch, epoch, normalizer)


def build_overflowing(resolved):
    config = resolved.config
    detector = model_builder.build_model(resolved).detector
    return Overflowing(detector, config.input, config.precision)


def state_of(model, optimizer):
    """Return a copy of everything that a step changes."""
    state = {**{f'model.{k}': v for k, v in model.state_dict().items()}}
    state |= {f'mean.{k}': v for k, v in optimizer.ema.module.state_dict().items()}
    for index, moments in optimizer.main.adamw.state_dict()['state'].items():
        state |= {f'{index}.{key}': value for key, value in moments.items()}
    state['steps'] = optimizer.ema.steps
    return {key: value.detach().clone() for key, value in state.items()}


@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
@pytest.mark.parametrize('parts', [1, 2])
def test_a_skipped_step_changes_nothing(scenes, precision, parts):
    config = small_config(
        scenes, scenes, precision=precision, optim=optim.OptimConfig(ema=0.9, lr=1e-3)
    )
    frames = dataset.FrameDataset(config.train, config.input, config.classes, config.seed)
    good, bad = (dataset.collate([frames[0, i] for i in pair], 50) for pair in ((0, 1), (2, 3)))
    torch.manual_seed(0)
    model = build_overflowing(resolve_config(config)).train()
    optimizer = optim.Optimizer(model, model.detector, config.optim, precision)
    optimizer.scaler = torch.amp.GradScaler('cpu', init_scale=2.0, enabled=precision == 'fp16')

    def step(batch):
        return train_step.train_step(
            model, batch, optimizer, config.weights, 0, num_micro_batches=parts
        )

    assert float(step(good)['skipped']) == 0
    before = state_of(model, optimizer)
    results = step(bad)
    assert (float(results['skipped']), float(results['grad_norm'])) == (1, 0)
    # at fp16's lowest scale, and in other precisions, scaling does not explain the overflow
    assert float(results['diverged']) == (precision != 'fp16')
    assert float(step(bad)['diverged']) == 1
    assert_equal_weights(state_of(model, optimizer), before)
    assert all(value.isfinite().all() for value in state_of(model, optimizer).values())
    assert float(step(good)['skipped']) == 0
    after = state_of(model, optimizer)
    assert sum(not torch.equal(after[key], before[key]) for key in after) > len(after) / 2


def test_fp16s_loss_scale_does_not_fall_below_1():
    model = nn.Linear(2, 1)
    optimizer = optim.Optimizer(model, model, optim.OptimConfig(), 'fp16')
    for _ in range(25):  # 2**16 is halved to 1 by 16 steps
        optimizer.zero_grad()
        optimizer.backward(model(torch.ones(1, 2)).sum() * torch.inf)
        optimizer.step()
    assert optimizer.scaler.get_scale() == 1


def test_a_buffer_that_is_not_finite_is_restored_after_a_finite_step():
    norm = nn.BatchNorm1d(2).train()
    saved = saved_buffers.save_buffers(norm)
    norm.running_var[0] = torch.inf
    norm.num_batches_tracked += 1
    saved.restore_unless(torch.tensor(True))
    assert norm.running_var.tolist() == [1, 1]
    assert norm.num_batches_tracked == 0
    norm.running_mean += 1
    saved.restore_unless(torch.tensor(True))
    assert norm.running_mean.tolist() == [1, 1]
    assert not saved_buffers.save_buffers(norm.eval()).groups


def test_skipping_does_not_make_the_host_wait():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = optim.Optimizer(model, model, optim.OptimConfig(ema=0.9), 'fp32')
    for _ in range(2):  # the first step creates the moments
        with SyncRecorder() as recorder:
            saved = saved_buffers.save_buffers(model)
            optimizer.zero_grad()
            optimizer.backward(model(torch.randn(4, 3)).sum())
            optimizer.step(saved)
    assert recorder.operations == []


def run(scenes, out, **changes):
    changes = {'save_every': 1, 'optim': optim.OptimConfig(ema=0.9, lr=1e-3)} | changes
    return trainer.fit(resolve_config(small_config(scenes, out, **changes)), build_overflowing)


@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
def test_a_run_goes_past_a_skipped_step_and_names_its_frames(scenes, tmp_path, precision, caplog):
    with caplog.at_level('WARNING'):
        run(scenes, tmp_path, precision=precision, epochs=2)
    rows = list(csv.DictReader((tmp_path / 'curves.csv').open()))
    expected = ['1', '1'] if precision != 'fp16' else [row['skipped'] for row in rows]
    assert [row['skipped'] for row in rows] == expected
    assert all(int(row['skipped']) >= 1 for row in rows)
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    named = [each.message for each in caplog.records if 'frames' in each.message]
    assert len(named) >= 2
    assert sum('000003' in each for each in named) >= 2
    assert 'epoch 1: 1 of 2 steps skipped' in caplog.text or precision == 'fp16'
    state = torch.load(tmp_path / 'last.pt', weights_only=True)
    for part in (state['model'], state['mean']['module']):
        assert all(value.isfinite().all() for value in part.values())


def test_a_run_stopped_after_a_skipped_step_resumes_to_the_same_weights(
    scenes, tmp_path, monkeypatch
):
    run(scenes, tmp_path / 'whole')
    original = trainer.train_one_epoch

    def stop_at_third(state, epoch, bar):
        if epoch == 2:
            raise KeyboardInterrupt
        return original(state, epoch, bar)

    monkeypatch.setattr(trainer, 'train_one_epoch', stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(scenes, tmp_path / 'stopped')
    monkeypatch.setattr(trainer, 'train_one_epoch', original)
    run(scenes, tmp_path / 'stopped')
    assert_equal_weights(weights_of(tmp_path / 'stopped'), weights_of(tmp_path / 'whole'))
    whole, stopped = (
        torch.load(tmp_path / name / 'last.pt', weights_only=True)['mean']
        for name in ('whole', 'stopped')
    )
    assert_equal_weights(stopped['module'], whole['module'])
    assert stopped['steps'] == whole['steps'] == 4  # one of two steps in each of four epochs


@pytest.mark.parametrize(
    ('skipped', 'reason'),
    [
        ([], ''),
        ([False] * 2, ''),
        ([True, False], ''),
        ([True, True], '2 of 2 steps were skipped'),
        ([True] * 3 + [False] * 40, ''),
        ([True, False] * 4 + [False] * 40, '4 of 48 steps were skipped'),
        ([True, False] * 9 + [False] * 982, ''),
        ([True, False] * 11 + [False] * 978, '11 of 1000 steps were skipped'),
        ([True] * 10 + [False] * 1990, '10 steps in a row were skipped'),
        ([True] * 9 + [False] * 1991, ''),
    ],
)
def test_many_skipped_steps_end_a_run(skipped, reason):
    assert epoch_statistics.too_many_skipped(skipped) == reason


def test_means_leave_out_skipped_steps():
    statistics = epoch_statistics.EpochStatistics(1)
    for total, skipped in ((2.0, 0.0), (float('nan'), 1.0), (4.0, 0.0)):
        results = {'total': total, 'grad_norm': total, 'skipped': skipped, 'diverged': skipped}
        statistics.add({k: torch.tensor(v) for k, v in results.items()}, ('a',))
    assert statistics.summarize() == {'total': 3.0, 'grad_norm': 3.0, 'skipped': 1.0}


@pytest.mark.parametrize(('epoch', 'relation', 'warns'), [(1, 0.0, 1), (1, 1e-9, 0), (2, 0.0, 0)])
def test_a_loss_that_compares_nothing_is_named_after_the_first_epoch(
    epoch, relation, warns, caplog
):
    statistics = epoch_statistics.EpochStatistics(epoch)
    for skipped in (0.0, 1.0, 0.0):
        losses = {'det/heatmap': 2.0, 'distill/relation': relation, 'total': 2.0}
        results = {**losses, 'skipped': skipped, 'diverged': 0.0}
        statistics.add({k: torch.tensor(v) for k, v in results.items()}, ('a',))
    statistics.summarize()
    text = 'distill/relation is 0 in all 2 steps, so nothing is learnt from it'
    assert sum(text in record.getMessage() for record in caplog.records) == warns


def test_steps_that_lower_the_loss_scale_do_not_end_a_run():
    statistics = epoch_statistics.EpochStatistics(1)
    for _ in range(16):
        results = {'total': 1.0, 'skipped': 1.0, 'diverged': 0.0}
        statistics.add({k: torch.tensor(v) for k, v in results.items()}, ('a',))
    assert statistics.summarize()['skipped'] == 16


def test_a_weight_or_average_that_is_not_finite_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = copy.deepcopy(model)
    epoch_statistics.require_finite(1, {'model': model, 'average': average})
    average[1].running_var[1] = torch.nan
    with pytest.raises(
        train_step.TrainError, match=r'epoch 7: average\.1\.running_var is not fin'
    ):
        epoch_statistics.require_finite(7, {'model': model, 'average': average})
