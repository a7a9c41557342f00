"""The resolved configuration: what it holds, and how often a run reads its model files."""

import dataclasses
import hashlib
import json
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from small_stages import make_scenes_with_depth, plan

from stl_core.cli import main
from stl_core.data import dataset
from stl_core.inference import model_file
from stl_core.training import resolved_config, stages
from stl_core.training.config_builder import ConfigError
from stl_core.training.resolved_config import resolve_config, with_file_digests
from stl_core.visualization import charts

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes_with_depth(tmp_path_factory.mktemp('kitti'), frames=2)


@pytest.fixture
def data(scenes, tmp_path):
    """Return a plan of one epoch, whose teacher and base model are untrained files."""
    torch.manual_seed(0)
    data = plan(scenes, tmp_path, epochs=1)
    built = stages.build_stages(data)
    for name in ('teacher', 'base'):
        spec = resolve_config(built[name]).model_spec
        path = tmp_path / name / 'student.safetensors'
        model_file.save_model(path, model_file.build_detector(spec), spec)
    return data


@pytest.fixture
def reads(monkeypatch):
    """Count how often each model file is opened for its header and read as a whole."""
    counts = SimpleNamespace(headers=Counter(), hashes=Counter())
    open_file, sha256_of = model_file.safe_open, resolved_config.sha256_of

    @contextmanager
    def counting_open(path, framework):
        def metadata():
            counts.headers[str(path)] += 1
            return file.metadata()

        with open_file(path, framework) as file:
            yield SimpleNamespace(metadata=metadata, keys=file.keys, get_tensor=file.get_tensor)

    def counting_hash(path):
        counts.hashes[str(path)] += 1
        return sha256_of(path)

    monkeypatch.setattr(model_file, 'safe_open', counting_open)
    monkeypatch.setattr(resolved_config, 'sha256_of', counting_hash)
    return counts


def test_each_model_file_is_read_once_per_run(data, tmp_path, reads, monkeypatch):
    monkeypatch.setattr(charts, 'plot_loss_curves', lambda *_: None)
    path = tmp_path / 'plan.yaml'
    path.write_text(json.dumps(data))
    once = {f'{tmp_path}/{name}/student.safetensors': 1 for name in ('teacher', 'base')}
    for command in (
        ['train', str(path), '--stage', 'distil'],
        ['train', str(path), '--stage', 'distil'],  # finished, skipped
        ['show-selection', str(path), str(tmp_path / 'chart.png'), '--frames', '1'],
    ):
        reads.headers.clear()
        reads.hashes.clear()
        main.main(command)
        assert +reads.headers == once, command
        assert +reads.hashes == once, command


def test_it_holds_the_headers_and_digests_of_the_model_files(data, tmp_path):
    config = stages.build_stages(data)['distil']
    resolved = resolve_config(config)
    teacher, base = (tmp_path / name / 'student.safetensors' for name in ('teacher', 'base'))
    assert resolved.teacher_spec == model_file.read_model_spec(teacher)
    assert resolved.start_spec == model_file.read_model_spec(base)
    assert resolved.config.start_sha256 == hashlib.sha256(base.read_bytes()).hexdigest()
    digest = hashlib.sha256(teacher.read_bytes()).hexdigest()
    assert resolved.config.distill.teacher_sha256 == digest
    assert resolved.model_spec.provenance['teacher_sha256'] == digest
    assert resolved.config == with_file_digests(config)
    assert resolve_config(resolved.config) == resolved


def test_a_header_without_its_model_file_and_a_missing_header_are_errors(data):
    resolved = resolve_config(stages.build_stages(data)['distil'])
    without_start = dataclasses.replace(resolved.config, start='')
    without_teacher = dataclasses.replace(resolved.config, distill=None)
    for name, changes in (
        ('start_spec', {'start_spec': None}),
        ('start_spec', {'config': without_start}),
        ('teacher_spec', {'teacher_spec': None}),
        ('teacher_spec', {'config': without_teacher}),
    ):
        with pytest.raises(ValueError, match=f'{name}: expected if and only if'):
            dataclasses.replace(resolved, **changes)


def test_it_chooses_the_images_that_student_and_teacher_need(data):
    built = stages.build_stages(data)
    loaders = {name: resolve_config(each).image_loader for name, each in built.items()}
    assert loaders['base'] is dataset.load_image
    assert loaders['teacher'] is loaders['distil'] is dataset.load_image_and_depth
    base = resolve_config(built['base'])
    assert (base.start_spec, base.teacher_spec) == (None, None)
    assert base.config == built['base']


def test_an_exchanged_file_is_an_error(data, tmp_path):
    config = with_file_digests(stages.build_stages(data)['distil'])
    path = tmp_path / 'base/student.safetensors'
    model_file.convert_to_half(path, path)
    with pytest.raises(ConfigError, match=r'start: .*base.* has SHA-256 .*, expected'):
        resolve_config(config)


def test_depth_input_and_detector_agree_on_true_metres(data):
    config = stages.build_stages(data)['teacher']
    depth = dataclasses.replace(config.input.depth, virtual_focal_px=500.0)
    with pytest.raises(ConfigError, match=r'input\.depth\.virtual_focal_px is 500\.0,'):
        resolve_config(
            dataclasses.replace(config, input=dataclasses.replace(config.input, depth=depth))
        )
