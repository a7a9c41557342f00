"""A privileged teacher starts from the weights of its base."""

import dataclasses

import pytest
import torch
from small_run import small_config

from stl_core.inference import model_file
from stl_core.models.depth_association import PREFIX
from stl_core.training.config_builder import ConfigError
from stl_core.training.model_builder import build_model
from stl_core.training.resolved_config import resolve_config


def run(tmp_path, given_depth, start='', **changes):
    config = small_config(tmp_path, tmp_path / 'out', start=str(start), **changes)
    spec = dataclasses.replace(config.input, given_depth=given_depth)
    return resolve_config(dataclasses.replace(config, input=spec))


def saved(resolved, path, seed):
    """Write a model file of the run's detector with random weights; return path and weights."""
    torch.manual_seed(seed)
    detector = model_file.build_detector(resolved.model_spec)
    for value in detector.parameters():
        torch.nn.init.normal_(value)
    model_file.save_model(path, detector, resolved.model_spec)
    return path, detector.state_dict()


def test_a_teacher_starts_from_its_base_with_a_new_depth_association(tmp_path):
    path, weights = saved(run(tmp_path, ''), tmp_path / 'base.safetensors', 1)
    torch.manual_seed(2)
    teacher = build_model(run(tmp_path, 'objects', path)).detector.state_dict()
    added = {name for name in teacher if name.startswith(PREFIX)}
    assert added == teacher.keys() - weights.keys()
    assert all(torch.equal(teacher[name], weights[name]) for name in weights)
    assert torch.count_nonzero(teacher[f'{PREFIX}output.weight']) == 0
    assert torch.count_nonzero(teacher[f'{PREFIX}local.weight'])


def test_a_teacher_resumes_all_weights_of_another(tmp_path):
    path, weights = saved(run(tmp_path, 'objects'), tmp_path / 'teacher.safetensors', 1)
    teacher = build_model(run(tmp_path, 'scan', path)).detector.state_dict()
    assert teacher.keys() == weights.keys()
    assert all(torch.equal(teacher[name], weights[name]) for name in weights)


def test_a_student_cannot_start_from_a_teacher(tmp_path):
    path, _ = saved(run(tmp_path, 'objects'), tmp_path / 'teacher.safetensors', 1)
    with pytest.raises(ConfigError, match=r'start: .* is a privileged teacher .*: objects'):
        run(tmp_path, '', path)


def test_other_missing_weights_are_refused(tmp_path):
    path, _ = saved(run(tmp_path, ''), tmp_path / 'base.safetensors', 1)
    resolved = run(tmp_path, 'objects', path)
    wider = {**resolved.model_spec.options, 'head_width': 9}
    spec = dataclasses.replace(resolved.model_spec, options=wider)
    with pytest.raises(ConfigError, match=r'start: .*weights do not fit'):
        build_model(dataclasses.replace(resolved, model_spec=spec))
