"""Runs extended to more epochs: the schedule in closed form, exact resume, stored records."""

import csv
import dataclasses
import json
import math
import multiprocessing
import signal

import pytest
import torch
from kitti_scenes import make_scenes
from run_folder_processes import EXTEND, extend_until_killed, extended_config, fit
from small_run import assert_equal_weights, weights_of

from stl_core.inference import model_file
from stl_core.training import checkpoint, optim, trainer
from stl_core.training.checkpoint import CheckpointError
from stl_core.training.resolved_config import resolve_config
from stl_core.training.run import extension
from stl_core.training.run.extension import Extension
from stl_core.visualization import charts

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr(charts, 'plot_loss_curves', lambda *_: None)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('kitti'), frames=5)


@pytest.mark.parametrize('lr', [None, 3e-4])
def test_added_epochs_follow_half_a_cosine(lr):
    config = optim.OptimConfig(lr=1e-2, schedule='step', warmup_epochs=5)
    added = extension.make_extension(20, 30, 20, (), lr, config)
    begin = 1e-3 if lr is None else lr
    for epoch in (20, 22.5, 25, 29.75, 30):
        expected = begin * (0.001 + 0.999 * (1 + math.cos(math.pi * (epoch - 20) / 10)) / 2)
        lr_now, beta = extension.extended_schedule_at(epoch, 30, (added,), config)
        assert lr_now == pytest.approx(expected, rel=1e-12)
        assert beta == 0.9
    for epoch in (0, 3.5, 13, 19.9):  # the plan's epochs keep the plan's schedule, of 20 epochs
        assert extension.extended_schedule_at(epoch, 30, (added,), config) == (
            optim.schedule_at(epoch, 20, config)
        )


def test_a_second_extension_follows_the_first():
    config = optim.OptimConfig(lr=1e-2)
    one = extension.make_extension(20, 30, 20, (), None, config)
    two = extension.make_extension(30, 50, 30, (one,), 1e-4, config)
    assert (two.first, two.last, two.planned) == (30, 50, 20)
    at = [extension.extended_schedule_at(each, 50, (one, two), config).lr for each in (25, 40)]
    assert at == pytest.approx([1e-3 * 0.5005, 1e-4 * 0.5005])


@pytest.mark.parametrize(
    ('freeze_at', 'epoch', 'frozen'),
    [(1.0, 19, False), (1.0, 25, False), (0.9, 17, False), (0.9, 18, True), (0.9, 25, True)],
)
def test_norms_stay_as_in_the_last_epoch_of_the_plan(freeze_at, epoch, frozen):
    config = optim.OptimConfig(freeze_norm_at=freeze_at)
    added = (Extension(20, 30, 1e-3, 20),)
    assert extension.norms_are_frozen(epoch, 30, added, config) == frozen


@pytest.mark.parametrize('lr', [0.0, -1.0, math.inf, math.nan])
def test_a_learning_rate_out_of_range_is_refused(lr):
    with pytest.raises(ValueError, match='expected a finite number above 0'):
        extension.make_extension(2, 4, 2, (), lr, optim.OptimConfig())


def test_a_finished_run_is_extended_from_its_last_checkpoint(scenes, tmp_path, caplog):
    fit(scenes, tmp_path, epochs=2)
    before = weights_of(tmp_path)
    with pytest.raises(CheckpointError, match=r'another epochs; .*--extend for 4 epochs, 2 more'):
        fit(scenes, tmp_path, epochs=4)
    with caplog.at_level('INFO'):
        fit(scenes, tmp_path, EXTEND, epochs=4)
    assert any(
        'epochs 3 to 4 are added: the learning rate follows half a cosine from 0.0002 to 2e-07'
        in each.message
        for each in caplog.records
    )
    rows = list(csv.DictReader((tmp_path / 'curves.csv').open()))
    assert [row['epoch'] for row in rows] == ['1', '2', '3', '4']
    # a row holds the learning rate of the last step of its epoch
    lr = [float(row['lr']) for row in rows[2:]]
    begun = Extension(2, 4, 2e-4, 2)
    last_step = 1 - 1 / len_of_epoch(scenes, tmp_path)
    assert lr == pytest.approx([begun.lr_at(2 + last_step), begun.lr_at(3 + last_step)], rel=1e-4)
    after = weights_of(tmp_path)
    assert any(not torch.equal(before[key], after[key]) for key in before)
    (stored,) = json.loads((tmp_path / 'extensions.json').read_text())
    assert (stored['first'], stored['last'], stored['lr']) == (2, 4, 2e-4)
    assert 'half a cosine' in stored['schedule']
    spec = model_file.read_model_spec(tmp_path / 'student.safetensors')
    assert spec.provenance['extensions'] == [{'first': 2, 'last': 4, 'lr': 2e-4, 'planned': 2}]
    assert checkpoint.is_done(resolve_config(extended_config(scenes, tmp_path, epochs=4)))
    assert not checkpoint.is_done(resolve_config(extended_config(scenes, tmp_path, epochs=2)))


def len_of_epoch(scenes, out):
    """Steps of an epoch, as the optimiser counted them."""
    state = torch.load(out / 'last.pt', weights_only=True)['optimizer']['state']
    return int(next(iter(state.values()))['step']) / 4


@pytest.mark.parametrize('steps', [1, 3])
def test_an_extended_run_that_is_killed_resumes_bit_for_bit(steps, scenes, tmp_path):
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    for out in (whole, killed):
        fit(scenes, out, epochs=2)
    fit(scenes, whole, EXTEND, epochs=4)
    process = multiprocessing.get_context('spawn').Process(
        target=extend_until_killed, args=(scenes, killed, steps)
    )
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    # after its first epoch, the extension is in the checkpoint and needs no option
    again = EXTEND if steps == 1 else checkpoint.RESUME_ONLY
    fit(scenes, killed, again, epochs=4)
    assert_equal_weights(weights_of(whole), weights_of(killed))
    model_bytes = [(out / 'student.safetensors').read_bytes() for out in (whole, killed)]
    assert model_bytes[0] == model_bytes[1]


def test_a_run_that_stopped_early_can_be_extended(scenes, tmp_path, monkeypatch):
    """Its evaluations before the extension do not stop it again."""
    values = iter([3.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    original = trainer.validation.metrics_row

    def falling(*arguments):
        return {**original(*arguments), 'metric': next(values)}

    monkeypatch.setattr(trainer.validation, 'metrics_row', falling)
    changes = {'eval_every': 1, 'patience': 2}
    fit(scenes, tmp_path, epochs=4, **changes)
    assert json.loads((tmp_path / 'done.json').read_text())['ended']['epochs'] == 3
    fit(scenes, tmp_path, EXTEND, epochs=5, **changes)
    record = json.loads((tmp_path / 'done.json').read_text())
    assert record['ended']['epochs'] == 5
    assert record['record']['extensions'] == [{'first': 3, 'last': 5, 'lr': 2e-4, 'planned': 4}]


def test_an_unfinished_run_completes_its_plan_before_the_extension(scenes, tmp_path, monkeypatch):
    original = trainer.log_and_save

    def stop_after_one(*arguments):
        original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, 'log_and_save', stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        fit(scenes, tmp_path / 'stopped', epochs=2)
    monkeypatch.setattr(trainer, 'log_and_save', original)
    fit(scenes, tmp_path / 'stopped', EXTEND, epochs=3)
    fit(scenes, tmp_path / 'finished', epochs=2)
    fit(scenes, tmp_path / 'finished', EXTEND, epochs=3)
    assert_equal_weights(weights_of(tmp_path / 'stopped'), weights_of(tmp_path / 'finished'))


def test_only_the_number_of_epochs_may_differ(scenes, tmp_path):
    fit(scenes, tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match='made with another batch_size, epochs'):
        fit(scenes, tmp_path, EXTEND, epochs=2, batch_size=3)
    fewer = dataclasses.replace(extended_config(scenes, tmp_path, epochs=1), epochs=3)
    trainer.fit(resolve_config(fewer), options=EXTEND)
    with pytest.raises(CheckpointError, match='made with another epochs; choose another'):
        fit(scenes, tmp_path, EXTEND, epochs=2)
