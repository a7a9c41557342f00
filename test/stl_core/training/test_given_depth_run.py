import dataclasses
import json

import given_depth_detector
import numpy as np
import pytest
import torch
import toy_runtime
from small_stages import make_scenes_with_depth, plan

from stl_core.cli import main
from stl_core.data import dataset, given_depth
from stl_core.data.frame_source import DataError
from stl_core.data.given_depth import ABSENT, COMPLETE, OTHER
from stl_core.evaluation import metrics
from stl_core.inference import model_file, result_files
from stl_core.inference.given_depths import given_depths
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.predictor import Predictor, load_predictor
from stl_core.inference.runtimes import RUNTIMES
from stl_core.inference.runtimes.interface import ModelFileError
from stl_core.models import DETECTORS
from stl_core.preprocessing import InputSpec
from stl_core.tensors import normalization
from stl_core.tensors.batch import as_image_objects
from stl_core.training import stages, trainer
from stl_core.training.config_builder import ConfigError
from stl_core.training.resolved_config import resolve_config
from stl_core.training.run import answer_reader
from stl_core.types import ImageObjects

KINDS = ('objects', 'scan')


@pytest.fixture(scope='module', autouse=True)
def registered():
    DETECTORS['reader'] = given_depth_detector.ENTRY
    yield
    del DETECTORS['reader']


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes_with_depth(tmp_path_factory.mktemp('kitti'), 4)


def make_plan(scenes, out, kind='objects', **teacher):
    data = plan(scenes, out)
    data['classes'] = ['Car']
    data['detector'] = {'name': 'reader', 'options': {'width': 8}}
    data['stages'] = {
        'base': {'out': f'{out}/base', 'epochs': 1},
        'teacher': {
            'out': f'{out}/teacher',
            'start': f'{out}/base/student.safetensors',
            'input': {'given_depth': kind},
            'train': {'augment': {'given_drop': 0.3, 'given_depth_jitter': 0.02}},
            **teacher,
        },
        'distil': {
            'out': f'{out}/distil',
            'start': f'{out}/base/student.safetensors',
            'distill': {
                'teacher': f'{out}/teacher/student.safetensors',
                'losses': {'plain_feature': {}},
                'layers': {'strides': [8], 'width': 8},
            },
            'weights': {'distill/plain_feature': 1.0},
        },
    }
    return data


@pytest.fixture(scope='module', params=KINDS)
def finished(request, scenes, tmp_path_factory):
    """Train base and teacher; return kind, configurations and the folder of the runs."""
    out = tmp_path_factory.mktemp(request.param)
    configs = stages.build_stages(make_plan(scenes, out, request.param))
    for name in ('base', 'teacher'):
        stages.run_stage(resolve_config(configs[name]))
    return request.param, configs, out


def teacher_path(out):
    return out / 'teacher/student.safetensors'


def test_a_run_ends_with_the_ap_of_every_given_depth(finished):
    kind, configs, out = finished
    stored = json.loads((out / 'teacher/metrics.json').read_text())
    given = stored['given']
    assert (given['kind'], given['privilege']) == (kind, given_depth.PRIVILEGE[kind])
    assert given['ap'].keys() == {COMPLETE, ABSENT, OTHER}
    assert given['ap'][COMPLETE] == {name: stored[name] for name in given['ap'][COMPLETE]}
    assert metrics.results_from_json(stored).to_json() == stored
    table = metrics.results_from_json(stored).format_table()
    assert f'given depth {kind}: {given_depth.PRIVILEGE[kind]}' in table
    spec = model_file.read_model_spec(teacher_path(out))
    assert spec.input.given_depth == kind
    header = spec.provenance[answer_reader.GIVEN]
    assert {'kind', 'privilege', 'base', COMPLETE, ABSENT, OTHER} == header.keys()
    base = model_file.read_model_spec(out / 'base/student.safetensors')
    assert header['base'] == pytest.approx(answer_reader.base_ap(base))
    assert not {'given', 'given_objects'} & base.provenance.keys()
    assert 'given' not in spec.provenance['metrics']
    assert spec.provenance['given_objects']['max_depth_m'] == configs['teacher'].train.max_depth_m


def test_the_predictor_equals_the_path_of_training_batches(finished, scenes):
    kind, configs, out = finished
    config = configs['teacher']
    canvas = InputSpec(320, 96, given_depth=kind)  # the size of the images, so that no edge moves
    plain = dataclasses.replace(config.val, augment=dataset.augmentation.Config(flip=0.0))
    frames = dataset.FrameDataset(
        plain, canvas, config.classes, 0, dataset.load_image_and_depth, kind
    )
    batch = dataset.collate([frames[0, 1]], 5)
    predictor = load_predictor(teacher_path(out), 'cpu')
    predictor.spec = dataclasses.replace(predictor.spec, input=canvas)
    seen = []
    runner = predictor.runner
    detector = runner.detector

    class Spy:
        device = 'cpu'

        def __call__(self, *inputs):
            seen.append(runner(*inputs))
            return seen[-1]

    predictor.runner = Spy()
    result_files.predict_frame(predictor, frames.images[1])
    with torch.inference_mode():
        inputs = normalization.network_input(batch, canvas)
        decoded = as_image_objects(detector.decode(detector(inputs)), 0)
    for name in ImageObjects.FIELD_SHAPES:
        np.testing.assert_allclose(
            getattr(decoded, name), getattr(seen[0][0], name), rtol=1e-5, atol=1e-5, err_msg=name
        )


def test_a_network_that_reads_given_depth_follows_it(finished):
    _, configs, out = finished
    predictor = load_predictor(teacher_path(out), 'cpu', min_score=0.0)
    predictor.max_iou = 1.0
    frames = dataset.list_frames(configs['teacher'].val)
    maps = [each.read() for each in given_depths(predictor.spec, frames)]

    def count_equal(given, shown):
        """Count the detections whose depth is one of the depths shown to the network."""
        found = result_files.predict_protocols(predictor, frames, given=given).ours
        depths = [
            (each.center_m[:, 2], np.unique(m)) for each, m in zip(found, shown, strict=True)
        ]
        return sum(int((abs(z[:, None] - m) < 1e-2).any(1).sum()) for z, m in depths)

    following = [*maps[1:], maps[0]]
    assert count_equal(COMPLETE, maps) > count_equal(ABSENT, maps)
    assert count_equal(OTHER, following) > count_equal(ABSENT, following)
    one = given_depths(predictor.spec, frames, OTHER)
    for read, expected in zip(one, following, strict=True):
        np.testing.assert_array_equal(read.read(), expected)
    with pytest.raises(DataError, match='expected two frames or more'):
        given_depths(predictor.spec, frames[:1], OTHER)


def test_images_without_given_depth_and_given_depth_without_a_privileged_network_are_refused():
    image, P = np.zeros((96, 320, 3), np.uint8), np.eye(3, 4)
    spec = ModelSpec(('Car',), InputSpec(160, 64, given_depth='objects'), 'reader')
    predictor = Predictor(lambda *inputs: [ImageObjects.empty()] * len(inputs[0]), spec)
    with pytest.raises(ValueError, match=r'given_depth: objects\): expected given_depths'):
        predictor([image], [P])
    with pytest.raises(ValueError, match='1 images but 2 given depths'):
        predictor([image], [P], [np.zeros((96, 320), np.float32)] * 2)
    for wrong in (np.zeros((64, 160), np.float32), np.zeros((96, 320))):
        with pytest.raises(ValueError, match=r'given depth: expected \(96, 320\) float32'):
            predictor([image], [P], [wrong])
    (found,) = predictor([image], [P], [np.zeros((96, 320), np.float32)])
    assert len(found) == 0
    predictor.spec = dataclasses.replace(spec, input=InputSpec(160, 64))
    with pytest.raises(ValueError, match='takes no given depth'):
        predictor([image], [P], [np.zeros((96, 320), np.float32)])
    batch = dataset.collate([dataset.Sample('a', image, P, ImageObjects.empty())], 1)
    with pytest.raises(ValueError, match='batch was loaded without it'):
        normalization.network_input(batch, spec.input)


def test_evaluate_and_predict_say_what_the_model_reads(finished, scenes, tmp_path, capsys):
    kind, _, out = finished
    model = str(teacher_path(out))
    for given in ([], ['--given', 'absent'], ['--given', 'other']):
        main.main(['evaluate', model, str(scenes), '--json', str(tmp_path / 'ap.json'), *given])
        name = given[-1] if given else COMPLETE
        printed = capsys.readouterr().out
        assert f'given depth {kind}, {name}: this model {given_depth.PRIVILEGE[kind]}' in printed
        stored = json.loads((tmp_path / 'ap.json').read_text())
        assert stored['given_depth']['given'] == name
        expected = json.loads((out / 'teacher/metrics.json').read_text())['given']['ap'][name]
        assert stored['ap']['Car']['3d'] == expected['Car']['3d']
    main.main(['predict', model, str(scenes), '--out', str(tmp_path / 'predict')])
    assert f'this model {given_depth.PRIVILEGE[kind]}' in capsys.readouterr().out
    base = str(out / 'base/student.safetensors')
    with pytest.raises(SystemExit, match='2'):
        main.main(['evaluate', base, str(scenes), '--given', 'absent'])
    assert 'is no privileged teacher' in capsys.readouterr().err


def test_a_privileged_teacher_never_runs_on_a_vehicle(finished, tmp_path, monkeypatch, capsys):
    model_loading = pytest.importorskip('mono3d_ros.perception.model_loading')
    path = teacher_path(finished[2])
    with pytest.raises(ValueError, match='a privileged teacher, which is given depth of labels'):
        model_loading.load_model(path, 'cpu')
    with pytest.raises(SystemExit, match='2'):
        main.main(['export', str(path), str(tmp_path / 'half.safetensors')])
    assert 'which no vehicle can run' in capsys.readouterr().err
    monkeypatch.setitem(RUNTIMES, '.toy', toy_runtime.RUNTIME)
    spec = model_file.read_model_spec(path)
    toy = toy_runtime.write_toy(tmp_path / 'a.toy', spec, ImageObjects.empty())
    with pytest.raises(ModelFileError, match=r'files ending in \.toy cannot be'):
        load_predictor(toy, 'cpu')


def test_distillation_loads_what_its_teacher_is_given(finished):
    kind, configs, out = finished
    resolved = resolve_config(configs['distil'])
    assert resolved.given_depth == kind
    loader = dataset.load_image_and_depth if kind == 'scan' else dataset.load_image
    assert resolved.image_loader is loader
    stages.run_stage(resolved)
    assert model_file.read_model_spec(out / 'distil/student.safetensors').input.given_depth == ''


def rewrite_header(path, out, **given):
    """Copy a teacher, with other figures of given depth in its header."""
    spec = model_file.read_model_spec(path)
    changed = {**spec.provenance, answer_reader.GIVEN: given}
    if not given:
        del changed[answer_reader.GIVEN]
    detector = model_file.load_detector(path, spec)
    model_file.save_model(out, detector, dataclasses.replace(spec, provenance=changed))
    return str(out)


def test_a_teacher_that_reads_the_answer_is_refused(finished, tmp_path, caplog):
    _, configs, out = finished

    def distil(base, absent, accept=None, **changes):
        numbers = {} if absent is None else {'absent': absent, 'base': base}
        path = rewrite_header(teacher_path(out), tmp_path / 'teacher.safetensors', **numbers)
        config = dataclasses.replace(configs['distil'], **changes)
        teacher = dataclasses.replace(config.distill, teacher=path, accept_answer_reader=accept)
        return resolve_config(dataclasses.replace(config, distill=teacher))

    distil(40.0, 20.0)
    with pytest.raises(ConfigError, match=r'reads the answer.*19\.90, less than half of the 40'):
        distil(40.0, 19.9)
    distil(40.0, 19.9, accept=True)
    with pytest.raises(ConfigError, match='no AP without given depth in its header'):
        distil(None, None)
    distil(None, 0.0)  # compared with the student's start, whose AP is 0 here
    distil(None, 0.0, start='')
    assert 'is compared with nothing' in caplog.text


def test_options_of_given_depth_need_a_network_that_is_given_some(finished, scenes):
    kind, _, out = finished
    other = 'objects' if kind == 'scan' else 'scan'
    data = make_plan(scenes, out, kind)
    data['train'] = {**data['train'], 'augment': {'given_drop': 0.3}}
    with pytest.raises(ConfigError, match=r'train\.augment\.given_drop: no network'):
        resolve_config(stages.build_stages(data)['base'])
    data = make_plan(scenes, out, kind)
    data['stages']['distil']['input'] = {'given_depth': other}
    with pytest.raises(ConfigError, match='a run gives one kind of depth'):
        resolve_config(stages.build_stages(data)['distil'])
    data['input']['given_depth'] = 'lidar'
    with pytest.raises(ConfigError, match="given_depth: expected '' or 'scan' or 'objects'"):
        stages.build_stages(data)


def test_a_resumed_run_is_given_the_same_depth(finished, tmp_path, monkeypatch):
    _, configs, out = finished
    seen = []
    collate = dataset.collate

    def record(samples, slots):
        batch = collate(samples, slots)
        seen.append(batch.given_depth_m)
        return batch

    class Stopped(Exception):
        pass

    def stop(run, epoch, bar):
        if epoch:
            raise Stopped
        return train_one_epoch(run, epoch, bar)

    train_one_epoch = trainer.train_one_epoch
    resolved = resolve_config(dataclasses.replace(configs['teacher'], out=str(tmp_path)))
    monkeypatch.setattr(dataset, 'collate', record)
    monkeypatch.setattr(trainer, 'train_one_epoch', stop)
    with pytest.raises(Stopped):
        stages.run_stage(resolved)
    monkeypatch.setattr(trainer, 'train_one_epoch', train_one_epoch)
    stages.run_stage(resolved)
    resumed = list(seen)
    seen.clear()
    stages.run_stage(
        resolve_config(dataclasses.replace(configs['teacher'], out=str(tmp_path / 'whole')))
    )
    assert len(seen) == len(resumed) == 4
    for one, other in zip(seen, resumed, strict=True):
        assert torch.equal(one, other)
    weights = [model_file.load_detector(teacher_path(out), resolved.model_spec).state_dict()]
    path = tmp_path / 'student.safetensors'
    weights.append(model_file.load_detector(path, resolved.model_spec).state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
