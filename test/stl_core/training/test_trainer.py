"""Training runs: outputs, exact resume, validation, early stopping, frozen norms, classes."""

import csv
import dataclasses
import json
import multiprocessing
import random
import signal

import numpy as np
import pytest
import torch
from kitti_scenes import make_scenes
from small_run import assert_equal_weights, small_config, weights_of, with_dropout
from torch import nn
from training_processes import run_until_killed, stateful_config

from stl_core.data import dataset
from stl_core.data.frame_source import DataError
from stl_core.data.sources import kitti
from stl_core.evaluation.metrics import SelectionMetric
from stl_core.inference import model_file
from stl_core.training import (
    checkpoint,
    config,
    model_builder,
    optim,
    train_step,
    trainer,
)
from stl_core.training.config import ValidationConfig
from stl_core.training.model_builder import SupervisedModel
from stl_core.training.resolved_config import resolve_config
from stl_core.visualization import charts

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """Skip the plot of loss curves, which takes longer than a small run; `finished` draws it."""
    monkeypatch.setattr(charts, 'plot_loss_curves', lambda table, path: None)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('kitti'), frames=5)


@pytest.fixture(scope='module')
def finished(scenes, tmp_path_factory):
    """Return the output folder of a finished run of four epochs."""
    out = tmp_path_factory.mktemp('uninterrupted')
    trainer.fit(resolve_config(small_config(scenes, out)))
    return out


def test_a_run_writes_all_outputs(finished):
    rows = list(csv.DictReader((finished / 'curves.csv').open()))
    assert [row['epoch'] for row in rows] == ['1', '2', '3', '4']
    assert float(rows[-1]['total']) < float(rows[0]['total'])
    assert set(json.loads((finished / 'metrics.json').read_text())) == {
        'Car',
        'Pedestrian',
        'Cyclist',
        'published',
        'counts',
    }
    assert (finished / 'curves.png').stat().st_size > 1000
    assert len(list((finished / 'results').glob('*.txt'))) == 5
    assert not list(finished.rglob('*.part'))


def test_the_model_file_holds_its_provenance(finished):
    spec = model_file.read_model_spec(finished / 'student.safetensors')
    assert spec.classes == ('Car', 'Pedestrian', 'Cyclist')
    assert spec.provenance['seed'] == 444
    assert spec.provenance['frames_judged'] == 5
    assert (spec.input.width_px, spec.input.height_px) == (160, 64)


def test_a_killed_run_resumes_bit_for_bit(scenes, tmp_path):
    """Three epochs of two steps, killed before a random step of the second or third."""
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    steps = random.SystemRandom().randrange(2, 6)
    worker = multiprocessing.get_context('spawn').Process(
        target=run_until_killed, args=(scenes, killed, steps)
    )
    worker.start()
    trainer.fit(resolve_config(stateful_config(scenes, whole)), with_dropout)
    worker.join(300)
    assert worker.exitcode == -signal.SIGKILL
    assert torch.load(killed / 'last.pt', weights_only=True)['epoch'] == steps // 2
    trainer.fit(resolve_config(stateful_config(scenes, killed)), with_dropout)
    states = [torch.load(out / 'last.pt', weights_only=True) for out in (whole, killed)]
    for part in ('model', 'mean', 'optimizer'):
        expected, resumed = (checkpoint_tensors(state[part]) for state in states)
        assert len(expected) > 100
        assert_equal_weights(expected, resumed)
    for name in ('val.csv', 'metrics.json'):
        assert (whole / name).read_text() == (killed / name).read_text(), steps
    curves = [list(csv.DictReader((out / 'curves.csv').open())) for out in (whole, killed)]
    for row in (*curves[0], *curves[1]):
        del row['images_per_s']
    assert curves[0] == curves[1]
    best = [torch.load(out / 'best.pt', weights_only=True)['epoch'] for out in (whole, killed)]
    assert best[0] == best[1]


def checkpoint_tensors(state, path=''):
    """Flatten nested state into {path: tensor}."""
    items = state.items() if isinstance(state, dict) else enumerate(state)
    tensors = {}
    for key, value in items:
        if isinstance(value, (dict, list)):
            tensors |= checkpoint_tensors(value, f'{path}.{key}')
        elif isinstance(value, torch.Tensor):
            tensors[f'{path}.{key}'] = value
    return tensors


def test_a_run_stopped_between_epochs_resumes_bit_for_bit(scenes, finished, tmp_path, monkeypatch):
    original, calls = trainer.train_one_epoch, []

    def stop_at_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(trainer, 'train_one_epoch', stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(resolve_config(small_config(scenes, tmp_path)))
    assert torch.load(tmp_path / 'last.pt', weights_only=True)['epoch'] == 2
    monkeypatch.setattr(trainer, 'train_one_epoch', original)
    trainer.fit(resolve_config(small_config(scenes, tmp_path)))
    assert_equal_weights(weights_of(tmp_path), weights_of(finished))


def test_a_run_cannot_resume_with_another_configuration(scenes, finished):
    with pytest.raises(checkpoint.CheckpointError, match='made with another batch_size, seed'):
        trainer.fit(resolve_config(small_config(scenes, finished, seed=1, batch_size=3)))


def test_missing_frames_are_errors(scenes, tmp_path):
    with pytest.raises(train_step.TrainError, match=r'train\.sources: no frames'):
        trainer.fit(resolve_config(small_config(scenes, tmp_path, train=dataset.DataConfig())))
    with pytest.raises(train_step.TrainError, match=r'val\.sources: no frames for validation'):
        trainer.fit(resolve_config(small_config(scenes, tmp_path, val=ValidationConfig())))


class NanDepthLoss(SupervisedModel):
    """A model whose depth loss is NaN after the first step of the second epoch."""

    def forward(self, batch, epoch, normalizer):
        losses = super().forward(batch, epoch, normalizer)
        return {**losses, 'det/depth': losses['det/depth'] * (float('nan') if epoch > 1 else 1)}


def test_a_loss_that_is_never_finite_stops_the_run(scenes, tmp_path):
    def build(resolved):
        return NanDepthLoss(model_builder.build_model(resolved).detector, resolved.config.input)

    with pytest.raises(
        train_step.TrainError, match=r'epoch 3: 2 of 2 steps were skipped, because the gradient'
    ):
        trainer.fit(resolve_config(small_config(scenes, tmp_path)), build)
    assert torch.load(tmp_path / 'last.pt', weights_only=True)['epoch'] == 2
    assert all(value.isfinite().all() for value in weights_of(tmp_path).values())


def test_frozen_norms_stay_in_eval_mode(scenes, tmp_path):
    frozen = optim.OptimConfig(freeze_norm_at=0.5)
    trainer.fit(
        resolve_config(small_config(scenes, tmp_path, optim=frozen, epochs=2, save_every=1))
    )
    half = small_config(scenes, tmp_path / 'half', optim=frozen, epochs=2)
    assert weights_of(tmp_path).keys()
    model = model_builder.build_model(resolve_config(half)).train()
    trainer.freeze_norm(model)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    model.train()
    assert all(m.training for m in norms)


def test_sources_with_equal_frame_ids_keep_separate_results(scenes, tmp_path):
    built = small_config(scenes, tmp_path)
    twice = dataclasses.replace(built.val, sources=built.val.sources * 2)
    trainer.fit(resolve_config(dataclasses.replace(built, val=twice, epochs=1)))
    assert len(list((tmp_path / 'results').iterdir())) == 10


def test_the_best_model_is_kept_and_patience_ends_the_run(scenes, tmp_path, monkeypatch):
    """The AP of such a short run is 0, so the metric is patched to be 1, 3, 2, 2."""
    values = iter([1.0, 3.0, 2.0, 2.0])
    monkeypatch.setattr(SelectionMetric, 'value', lambda self, results: next(values))
    with_ema = optim.OptimConfig(ema=0.5)
    stopped = small_config(scenes, tmp_path, epochs=9, eval_every=1, patience=2, optim=with_ema)
    trainer.fit(resolve_config(stopped))
    rows = list(csv.DictReader((tmp_path / 'val.csv').open()))
    assert [(row['epoch'], row['metric']) for row in rows] == [
        ('1', '1'),
        ('2', '3'),
        ('3', '2'),
        ('4', '2'),
    ]
    assert set(rows[0]) > {'Car/3d', 'Car/bev', 'Cyclist/aos', 'Pedestrian/bbox'}
    states = {
        name: torch.load(tmp_path / f'{name}.pt', weights_only=True) for name in ('best', 'last')
    }
    assert {name: state['epoch'] for name, state in states.items()} == {'best': 2, 'last': 4}
    for name, stem in (('best', 'student_best'), ('last', 'student')):
        path = tmp_path / f'{stem}.safetensors'
        assert model_file.read_model_spec(path).provenance['epoch'] == states[name]['epoch']
        weights = model_file.load_detector(path, model_file.read_model_spec(path)).state_dict()
        assert_equal_weights(weights, states[name]['mean']['module'])
    # a run that stopped early does not train again
    trainer.fit(resolve_config(stopped))
    assert len((tmp_path / 'curves.csv').read_text().splitlines()) == 5
    # with more patience, the run is not finished
    done = {
        patience: checkpoint.is_done(
            resolve_config(dataclasses.replace(stopped, patience=patience))
        )
        for patience in (0, 1, 2, 3)
    }
    assert done == {0: False, 1: True, 2: True, 3: False}


def test_a_run_is_finished_only_with_all_outputs(scenes, finished, tmp_path):
    built = small_config(scenes, tmp_path)
    names = ('done.json', 'student.safetensors', 'metrics.json')
    for name in names:
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    assert checkpoint.is_done(resolve_config(dataclasses.replace(built, patience=3, eval_every=1)))
    for name in names:
        (tmp_path / name).rename(tmp_path / 'away')
        assert not checkpoint.is_done(resolve_config(built)), name
        (tmp_path / 'away').rename(tmp_path / name)
    # older versions wrote no 'ended'; the model file holds the epochs
    record = json.loads((tmp_path / 'done.json').read_text())
    assert record.pop('ended') == {'epochs': 4, 'values': []}
    (tmp_path / 'done.json').write_text(json.dumps(record))
    assert checkpoint.is_done(resolve_config(built))
    (tmp_path / 'done.json').write_text(json.dumps({**record, 'epochs': 9}))
    assert not checkpoint.is_done(resolve_config(dataclasses.replace(built, epochs=9)))


def test_bf16_training_has_nearly_the_losses_of_fp32(scenes, finished, tmp_path):
    trainer.fit(resolve_config(small_config(scenes, tmp_path, precision='bf16', epochs=2)))
    rows = [list(csv.DictReader((out / 'curves.csv').open())) for out in (finished, tmp_path)]
    for full, half in zip(rows[0][:2], rows[1], strict=True):
        assert float(half['total']) == pytest.approx(float(full['total']), rel=0.05)
    assert rows[0][0]['total'] != rows[1][0]['total']
    assert {value.dtype for value in weights_of(tmp_path).values()} <= {torch.float32, torch.int64}


def test_fp16_may_skip_steps_while_it_lowers_its_loss_scale(scenes, tmp_path):
    trainer.fit(resolve_config(small_config(scenes, tmp_path, precision='fp16', epochs=1)))
    state = torch.load(tmp_path / 'last.pt', weights_only=True)
    assert state['scaler']['scale'] == 2**14
    assert {float(each['step']) for each in state['optimizer']['state'].values()} == {0.0}


def copy_with_labels(scenes, root, texts):
    """Copy frames with new label texts, one per frame; None keeps the frame's labels."""
    for folder in ('image_2', 'calib', 'label_2'):
        (root / folder).mkdir(parents=True)
        for path in sorted((scenes / folder).iterdir()):
            (root / folder / path.name).write_bytes(path.read_bytes())
    for path, text in zip(sorted((root / 'label_2').iterdir()), texts, strict=True):
        path.write_text(path.read_text() if text is None else text)
    return root


@pytest.mark.parametrize('part', ['train', 'val'])
def test_an_image_without_labels_is_an_error_that_names_its_file(scenes, tmp_path, part):
    built = small_config(scenes, tmp_path / 'out')
    data = getattr(built, part)
    unlabelled = dataclasses.replace(data.sources[0], label_2='')
    data = dataclasses.replace(data, sources=(*data.sources, unlabelled))
    with pytest.raises(DataError, match=r'image_2/000000\.png: this image has no labels$'):
        trainer.fit(resolve_config(dataclasses.replace(built, **{part: data})))
    assert len(dataset.FrameDataset(data, built.input, built.classes, 0)[0, 5].objects) == 0


DONT_CARE = 'DontCare -1 -1 -10 50 20 90 60 -1 -1 -1 -1000 -1000 -1000 -10\n'


@pytest.mark.parametrize(
    ('texts', 'augment'),
    [
        (['', '', '', '', None], {}),
        ([*[DONT_CARE] * 4, None], {}),
        (['', DONT_CARE, None, '', ''], {}),
        ([None] * 5, {'crop': 1.0, 'scale': 0.0, 'shift': 30.0}),
    ],
    ids=['few labels', 'mostly DontCare', 'few objects', 'all cropped'],
)
def test_losses_are_finite_in_steps_without_objects(scenes, tmp_path, texts, augment):
    root = copy_with_labels(scenes, tmp_path / 'data', texts)
    built = small_config(root, tmp_path / 'out', epochs=1, accumulate=2)
    train = dataclasses.replace(
        built.train, augment=dataclasses.replace(built.train.augment, **augment)
    )
    trainer.fit(resolve_config(dataclasses.replace(built, train=train)))
    (row,) = csv.DictReader((tmp_path / 'out/curves.csv').open())
    assert all(np.isfinite(float(value)) for value in row.values())
    assert all(value.isfinite().all() for value in weights_of(tmp_path / 'out').values())


def test_training_a_single_class(scenes, tmp_path):
    """Labels of other classes, here a Van, and DontCare regions are not objects to detect."""
    line = (scenes / 'label_2/000000.txt').read_text()
    texts = [line + line.replace('Car', 'Van') + DONT_CARE, *[None] * 4]
    root = copy_with_labels(scenes, tmp_path / 'data', texts)
    built = small_config(root, tmp_path / 'out')
    data = {'classes': ['Car'], 'detector': {'options': {'backbone': 'mobilenetv4_conv_small'}}}
    car = config.build_train_config(data)
    options = dataclasses.replace(
        built.detector.options, mean_size_hwl_m=car.detector.options.mean_size_hwl_m
    )
    car_only = dataclasses.replace(
        built,
        classes=('Car',),
        detector=dataclasses.replace(built.detector, options=options),
        epochs=1,
        metric='Car/bev/AP11/loose/hard',
        eval_every=1,
    )
    frames = dataset.FrameDataset(car_only.train, car_only.input, car_only.classes, car_only.seed)
    assert len(frames[0, 0].objects) == 1
    assert frames[0, 0].objects.class_id.tolist() == [0]
    trainer.fit(resolve_config(car_only))
    spec = model_file.read_model_spec(tmp_path / 'out/student.safetensors')
    assert spec.classes == ('Car',)
    detections = [kitti.read_labels(path) for path in (tmp_path / 'out/results').iterdir()]
    assert {str(name) for labels in detections for name in labels.name} <= {'Car'}
