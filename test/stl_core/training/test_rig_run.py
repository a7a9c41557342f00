"""Training a multi-view detector, alone and from a teacher that is given depth."""

import json

import pytest
import torch
import toy_rig_source
from kitti_scenes import make_scenes
from small_rigs import SMALL

from stl_core.inference.model_file import read_model_spec
from stl_core.tensors.batch import slice_batch
from stl_core.tensors.reductions import SINGLE_PART
from stl_core.training import config, model_builder, trainer
from stl_core.training.config_builder import ConfigError
from stl_core.training.optim import Optimizer
from stl_core.training.resolved_config import resolve_config
from stl_core.training.run import setup
from stl_core.training.train_step import train_step

SOURCE = {'format': 'toy_rig', 'samples': 4}


@pytest.fixture(scope='module', autouse=True)
def toy_rig_format():
    with toy_rig_source.registered():
        yield


def rig_config(out, **changes):
    """Return the TrainConfig of a small multi-view run."""
    detector = {'name': 'lift_splat', 'options': {**SMALL, 'depth_supervision': 'objects'}}
    data = {
        'out': str(out),
        'detector': detector,
        'classes': list(toy_rig_source.NAMES),
        'input': {'width_px': 96, 'height_px': 64, 'cut_top': True},
        'train': {
            'sources': [SOURCE],
            'augment': {'flip': 0.5},
            'ground': {'rotate_deg': 22.5, 'scale': 0.05, 'flip_x': 0.5, 'flip_y': 0.5},
        },
        'val': {'sources': [SOURCE]},
        'epochs': 2,
        'batch_size': 2,
        'workers': 0,
        'eval_every': 0,
        'device': 'cpu',
    }
    return config.build_train_config({**data, **changes})


def test_a_run_trains_validates_and_writes_a_multi_view_file(tmp_path, one_thread):
    built = rig_config(tmp_path / 'run')
    assert built.weights['det/depth'] == 3.0
    results = trainer.fit(resolve_config(built))
    assert set(results.ap.by_class) == {'Car', 'Pedestrian', 'Cyclist'}
    spec = read_model_spec(tmp_path / 'run/student.safetensors')
    assert spec.multi_view
    assert spec.input.cut_top
    counts = json.loads((tmp_path / 'run/labels.json').read_text())
    assert counts['rigs']['samples'] == 4
    assert counts['rigs']['taught'] == dict.fromkeys(toy_rig_source.NAMES, 4)
    lines = (tmp_path / 'run/curves.csv').read_text().splitlines()
    assert len(lines) == 3
    assert 'det/range' in lines[0]
    # every image of every sample has its result file
    assert len(list((tmp_path / 'run/results').glob('*.txt'))) == 12


def test_it_trains_with_one_kitti_camera(tmp_path, one_thread):
    make_scenes(tmp_path / 'kitti')
    folders = {k: str(tmp_path / 'kitti' / k) for k in ('image_2', 'calib', 'label_2')}
    data = {'sources': [folders]}
    ground = {'flip_y': 0.5}
    built = rig_config(
        tmp_path / 'run', train={**data, 'ground': ground}, val=data, epochs=1, batch_size=4
    )
    results = trainer.fit(resolve_config(built))
    assert results.counts.frames > 0
    counts = json.loads((tmp_path / 'run/labels.json').read_text())
    assert counts['rigs']['taught']['Car'] > 0


def test_a_stopped_run_resumes_to_the_same_weights(tmp_path, one_thread, monkeypatch):
    whole, halves = (rig_config(tmp_path / name) for name in ('whole', 'halves'))
    trainer.fit(resolve_config(whole))
    train_one_epoch = trainer.train_one_epoch

    def stop_after_one(run, epoch, bar):
        if epoch:
            raise KeyboardInterrupt
        return train_one_epoch(run, epoch, bar)

    monkeypatch.setattr(trainer, 'train_one_epoch', stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(resolve_config(halves))
    monkeypatch.undo()
    trainer.fit(resolve_config(halves))
    one, other = (
        torch.load(tmp_path / name / 'last.pt', weights_only=True)['model']
        for name in ('whole', 'halves')
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_micro_batches_of_whole_samples_give_the_gradient_of_the_batch(tmp_path, one_thread):
    resolved = resolve_config(rig_config(tmp_path))
    frames, *_ = setup.load_datasets(resolved)
    batch = frames.collate([frames[0, index] for index in range(4)])
    found = []
    for parts in (1, 2, 4):
        torch.manual_seed(0)
        model = model_builder.build_model(resolved).eval()  # norms would see one part at a time
        optim = resolved.config.optim
        optimizer = Optimizer(model, model.get_submodule('detector'), optim, 'fp32', {})
        weights = resolved.config.weights
        found.append(train_step(model, batch, optimizer, weights, 0.0, num_micro_batches=parts))
    for other in found[1:]:
        for name in ('total', 'grad_norm', 'det/heatmap', 'det/depth', 'det/velocity'):
            torch.testing.assert_close(other[name], found[0][name], rtol=1e-4, atol=1e-5)


def test_supervision_is_the_same_with_and_without_distillation(tmp_path):
    resolved = resolve_config(rig_config(tmp_path))
    frames, *_ = setup.load_datasets(resolved)
    batch = frames.collate([frames[0, 0]])
    assert batch.targets.depth_m.shape == (1, 3, 64, 96)
    assert (batch.targets.depth_m > 0).any()


@pytest.fixture(scope='module')
def teacher(tmp_path_factory, toy_rig_format):
    """Return the file of a teacher that is given the objects' depth."""
    out = tmp_path_factory.mktemp('teacher')
    given = {'width_px': 96, 'height_px': 64, 'cut_top': True, 'given_depth': 'objects'}
    torch.set_num_threads(1)
    trainer.fit(resolve_config(rig_config(out, input=given, epochs=1)))
    return out / 'student.safetensors'


def test_a_privileged_teacher_is_judged_with_other_given_depth(teacher):
    spec = read_model_spec(teacher)
    assert spec.provenance['given'].keys() >= {'complete', 'absent', 'other'}


LOSSES = {
    'dk3d': ('cpl', 'asb', 'tsrd'),
    'monostl': ('feature', 'relation', 'response'),
}


@pytest.mark.parametrize('method', list(LOSSES))
def test_a_student_learns_from_a_teacher_on_the_ground(tmp_path, teacher, method, one_thread):
    names = LOSSES[method]
    built = rig_config(
        tmp_path,
        distill={
            'teacher': str(teacher),
            'losses': {name: {} for name in names},
            'layers': {'levels': ['bev']},
            'accept_answer_reader': True,
        },
        weights={f'distill/{name}': 1.0 for name in names},
    )
    resolved = resolve_config(built)
    model = model_builder.build_model(resolved)
    frames, *_ = setup.load_datasets(resolved)
    batch = frames.collate([frames[0, index] for index in range(3)])
    assert batch.given_depth_m is not None
    found = model(batch, 2.0, SINGLE_PART)
    for name in names:
        loss = found[f'distill/{name}']
        assert loss.isfinite()
        (trunk,) = torch.autograd.grad(
            loss, model.student.trunk.smooth[0].weight, retain_graph=True
        )
        assert trunk.abs().max() > 0, name
    part = model(slice_batch(batch, slice(0, 2)), 2.0, SINGLE_PART)
    assert part.keys() == found.keys()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'detector': {'name': 'monodle'}}, 'train.ground: detector monodle sees single images'),
        (
            {'val': {'sources': [SOURCE], 'ground': {}}},
            'val.ground: augmentation is for training',
        ),
        (
            {'train': {'sources': [SOURCE], 'augment': {'window': 0.5, 'window_px': [9, 9]}}},
            'train.augment.window: for detectors of single images',
        ),
    ],
)
def test_options_of_another_kind_of_detector_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        resolve_config(rig_config(tmp_path, **changes))


def test_levels_upstream_of_the_given_depth_are_refused(tmp_path, teacher):
    built = rig_config(
        tmp_path,
        distill={
            'teacher': str(teacher),
            'losses': {'feature': {}},
            'layers': {'levels': ['c16']},
            'accept_answer_reader': True,
        },
        weights={'distill/feature': 1.0},
    )
    with pytest.raises(ConfigError, match='upstream'):
        model_builder.build_model(resolve_config(built))
