import csv
import dataclasses
import itertools
import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from scenes import make_scenes
from torch import nn

from stl_core import checkpoint, config, predict, train
from stl_core.data import dataset


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Bit for bit holds for one number of threads: sums over more are in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('kitti'), frames=5)


def small_config(scenes, out, **changes):
    data = {
        'sources': [{k: str(scenes / k) for k in ('image_2', 'calib', 'label_2')}],
        'augment': {'flip': 0.5, 'colour': 0.3},
    }
    built = config.build_train(
        {
            'out': str(out),
            'detector': {
                'options': {
                    'backbone': 'mobilenetv4_conv_small',
                    'neck': 'light',
                    'head_width': 8,
                }
            },
            'input': {'width_px': 160, 'height_px': 64},
            'train': data,
            'val': data,
            'epochs': 4,
            'batch_size': 2,
            'workers': 0,
            'eval_every': 0,
            'device': 'cpu',
        }
    )
    return dataclasses.replace(built, **changes)


def weights_of(out):
    return torch.load(out / 'last.pt', weights_only=True)['model']


def assert_equal_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope='module')
def finished(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp('uninterrupted')
    train.fit(small_config(scenes, out))
    return out


def test_a_run_leaves_all_it_promises(finished):
    rows = list(csv.DictReader((finished / 'curves.csv').open()))
    assert [row['epoch'] for row in rows] == ['1', '2', '3', '4']
    assert float(rows[-1]['total']) < float(rows[0]['total'])
    assert set(json.loads((finished / 'metrics.json').read_text())) == {
        'Car',
        'Pedestrian',
        'Cyclist',
    }
    assert (finished / 'curves.png').stat().st_size > 1000
    assert len(list((finished / 'results').glob('*.txt'))) == 5
    assert not list(finished.rglob('*.part'))


def test_the_student_says_how_it_was_made(finished):
    spec = predict.read_spec(finished / 'student.safetensors')
    assert spec.classes == ('Car', 'Pedestrian', 'Cyclist')
    assert spec.provenance['seed'] == 444
    assert spec.provenance['frames_judged'] == 5
    assert (spec.input.width_px, spec.input.height_px) == (160, 64)


def run_until_killed(scenes, out):
    torch.set_num_threads(1)
    train.fit(small_config(scenes, out))


def test_a_killed_run_goes_on_bit_for_bit(scenes, finished, tmp_path):
    out = tmp_path / 'killed'
    worker = multiprocessing.get_context('spawn').Process(
        target=run_until_killed, args=(scenes, out)
    )
    worker.start()
    while worker.is_alive() and not (out / 'last.pt').exists():
        time.sleep(0.005)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    done = torch.load(out / 'last.pt', weights_only=True)['epoch']
    assert 1 <= done <= 4
    train.fit(small_config(scenes, out))
    assert_equal_weights(weights_of(out), weights_of(finished))
    epochs = [row['epoch'] for row in csv.DictReader((out / 'curves.csv').open())]
    assert epochs == ['1', '2', '3', '4']


def test_stopped_between_epochs_goes_on_bit_for_bit(scenes, finished, tmp_path, monkeypatch):
    real, calls = train.run_epoch, []

    def stop_at_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(train, 'run_epoch', stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        train.fit(small_config(scenes, tmp_path))
    assert torch.load(tmp_path / 'last.pt', weights_only=True)['epoch'] == 2
    monkeypatch.setattr(train, 'run_epoch', real)
    train.fit(small_config(scenes, tmp_path))
    assert_equal_weights(weights_of(tmp_path), weights_of(finished))


def test_another_configuration_does_not_go_on_with_this_run(scenes, finished):
    with pytest.raises(checkpoint.CheckpointError, match='made with another batch_size, seed'):
        train.fit(small_config(scenes, finished, seed=1, batch_size=3))


def test_nothing_to_learn_from_is_told(scenes, tmp_path):
    with pytest.raises(train.TrainError, match=r'train\.sources: no frames'):
        train.fit(small_config(scenes, tmp_path, train=dataset.DataConfig()))


def test_batches_do_not_depend_on_the_workers(scenes, tmp_path):
    run = small_config(scenes, tmp_path)
    found = []
    for workers in (0, 2):
        frames = dataset.Frames(run.train, run.input, run.classes, run.seed)
        sampler = dataset.ShuffledBatches(len(frames), 2, run.seed)
        loader = dataset.batches(frames, sampler, workers)
        epochs = []
        for sampler.epoch in (0, 1):
            epochs.append(list(loader))
        found.append(epochs)
    for one, two in zip(found[0], found[1], strict=True):
        for a, b in zip(one, two, strict=True):
            assert a.ids == b.ids
            assert torch.equal(a.image, b.image)
            assert torch.equal(a.targets.center_px, b.targets.center_px)
    first = torch.cat([batch.image for batch in found[0][0]]).float().mean((1, 2, 3))
    second = torch.cat([batch.image for batch in found[0][1]]).float().mean((1, 2, 3))
    assert not torch.allclose(first.sort()[0], second.sort()[0])  # augmented anew


def test_no_batch_has_a_single_image_left_over():
    assert [len(b) for b in dataset.ShuffledBatches(5, 2, 0)] == [2, 3]
    assert [len(b) for b in dataset.ShuffledBatches(6, 4, 0)] == [4, 2]
    assert [len(b) for b in dataset.ShuffledBatches(1, 4, 0)] == [1]
    seen = [index for batch in dataset.ShuffledBatches(9, 4, 0) for _, index in batch]
    assert sorted(seen) == list(range(9))


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.tensor([3.0, 4.0]))

    def forward(self, batch, epoch):
        return {'a': (self.x**2).sum(), 'b': self.x.sum()}


def test_losses_and_weights_must_match():
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(train.TrainError, match='differ in b, bb; losses: a, b'):
        train.train_step(model, None, optimizer, {'a': 1.0, 'bb': 1.0}, 1.0, 0)


def test_a_step_is_the_weighted_gradient_clipped():
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    told = train.train_step(model, None, optimizer, {'a': 0.5, 'b': 2.0}, 1.0, 0)
    assert float(told['total']) == 0.5 * 25 + 2 * 7
    gradient = np.array([3.0, 4.0]) + 2
    assert float(told['grad_norm']) == pytest.approx(np.linalg.norm(gradient))
    step = gradient / np.linalg.norm(gradient)
    np.testing.assert_allclose(model.x.detach(), [3, 4] - step, rtol=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run():
    model = Toy()
    model.x.data[0] = torch.nan
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    with pytest.raises(train.TrainError, match=r'not finite at epoch 0\.00: a nan, b nan'):
        train.train_step(model, None, optimizer, {'a': 1.0, 'b': 1.0}, 1.0, 0)


def test_learning_rate_rises_then_falls():
    optim = config.OptimConfig(lr=1.0, warmup_epochs=5.0, drops=(0.5, 0.75))
    rates = [train.learning_rate(e, 100, optim) for e in (0, 5, 49, 50, 75)]
    np.testing.assert_allclose(rates, [0.01, 1, 1, 0.1, 0.01])
    cosine = dataclasses.replace(optim, schedule='cosine')
    falling = [train.learning_rate(e, 100, cosine) for e in range(5, 100)]
    assert all(a > b for a, b in itertools.pairwise(falling))
    assert falling[-1] < 0.01


def test_frozen_norms_stay_as_they_are(scenes, tmp_path):
    frozen = dataclasses.replace(config.OptimConfig(), freeze_norm_at=0.5)
    train.fit(small_config(scenes, tmp_path, optim=frozen, epochs=2, save_every=1))
    half = small_config(scenes, tmp_path / 'half', optim=frozen, epochs=2)
    assert weights_of(tmp_path).keys()
    model = train.Supervised(predict.build_detector(train.student_spec(half)), half.input).train()
    train.freeze_norm(model)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    model.train()
    assert all(m.training for m in norms)


def test_results_of_sources_that_share_ids_do_not_overwrite_each_other(scenes, tmp_path):
    one = small_config(scenes, tmp_path)
    twice = dataclasses.replace(one.val, sources=one.val.sources * 2)
    train.fit(dataclasses.replace(one, val=twice, epochs=1))
    assert len(list((tmp_path / 'results').iterdir())) == 10
