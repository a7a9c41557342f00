"""The option `deterministic` of a run."""

import dataclasses

import pytest
import torch
from kitti_scenes import make_scenes
from small_run import small_config

from stl_core.experiments import study
from stl_core.training import trainer
from stl_core.training.config_builder import ConfigError
from stl_core.training.resolved_config import resolve_config
from stl_core.training.run.determinism import deterministic_algorithms
from stl_core.visualization import charts

pytestmark = pytest.mark.usefixtures('one_thread')


def test_a_deterministic_run_uses_deterministic_algorithms_and_restores_the_rest(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(charts, 'plot_loss_curves', lambda table, path: None)
    scenes, seen, original = make_scenes(tmp_path / 'kitti', frames=3), [], trainer.train_step

    def step(*args, **kwargs):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return original(*args, **kwargs)

    monkeypatch.setattr(trainer, 'train_step', step)
    run = small_config(scenes, tmp_path / 'out', epochs=1, deterministic=True)
    trainer.fit(resolve_config(run))
    assert seen
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()
    # it chooses kernels, not another experiment: checkpoints and rows of studies stay valid
    plain = dataclasses.replace(run, deterministic=False)
    assert study.config_digest(plain) == study.config_digest(run)


def test_a_gpu_needs_a_workspace_for_cublas(monkeypatch):
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    gpu = torch.device('cuda:0')
    with (
        pytest.raises(ConfigError, match='CUBLAS_WORKSPACE_CONFIG=:4096:8 on a GPU'),
        deterministic_algorithms(True, gpu),
    ):
        pass
    with deterministic_algorithms(False, gpu):
        assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    with deterministic_algorithms(True, gpu):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_deterministic_algorithm_is_one_line():
    values, indices = torch.ones(1, 1, 4), torch.arange(4)[None, None]
    message = r'^deterministic: max_unpool.* does not have a deterministic implementation[^\n]*$'
    with (
        pytest.raises(ConfigError, match=message),
        deterministic_algorithms(True, torch.device('cpu')),
    ):
        torch.nn.functional.max_unpool1d(values, indices, 2)
    with (
        pytest.raises(RuntimeError, match='other'),
        deterministic_algorithms(True, torch.device('cpu')),
    ):
        raise RuntimeError('other')
