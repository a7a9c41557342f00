"""Runs whose backbone starts from ImageNet weights: a file, its digest, and resuming offline."""

import dataclasses

import pytest
import timm
import torch
from kitti_scenes import make_scenes
from safetensors.torch import save_file
from small_detectors import SMALL
from small_run import assert_equal_weights, small_config, weights_of

from stl_core.inference import model_file
from stl_core.models import backbone
from stl_core.training import model_builder, trainer
from stl_core.training.checkpoint import CheckpointError
from stl_core.training.config import build_train_config
from stl_core.training.config_builder import ConfigError
from stl_core.training.resolved_config import resolve_config
from stl_core.visualization import charts

NAME = 'mobilenetv4_conv_small'
pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr(charts, 'plot_loss_curves', lambda *_: None)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(backbone, 'pretrained_weights', lambda _: pytest.fail('asked for weights'))


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('kitti'), frames=5)


@pytest.fixture(scope='module')
def state():
    torch.manual_seed(5)
    return timm.create_model(NAME).state_dict()


def pretrained_config(scenes, out, **changes):
    built = small_config(scenes, out, **{'epochs': 2, **changes})
    options = dataclasses.replace(built.detector.options, pretrained=True)
    return dataclasses.replace(
        built, detector=dataclasses.replace(built.detector, options=options)
    )


def write(state, path):
    save_file(state, path)
    return str(path)


def test_the_backbone_starts_from_the_file_and_its_digest_is_kept(scenes, state, tmp_path):
    path = write(state, tmp_path / 'weights.safetensors')
    config = pretrained_config(scenes, tmp_path / 'run', epochs=1, backbone_weights=path)
    resolved = resolve_config(config)
    model = model_builder.build_model(resolved)
    torch.testing.assert_close(
        model.detector.backbone.body.conv_stem.weight.detach(), state['conv_stem.weight']
    )
    trainer.fit(resolved)
    spec = model_file.read_model_spec(tmp_path / 'run/student.safetensors')
    assert spec.provenance['backbone_weights_sha256'] == resolved.config.backbone_weights_sha256
    moved = write(state, tmp_path / 'moved.safetensors')
    trainer.fit(resolve_config(dataclasses.replace(config, backbone_weights=moved)))
    other = {**state, 'conv_stem.weight': state['conv_stem.weight'] + 1}
    write(other, tmp_path / 'weights.safetensors')
    with pytest.raises(CheckpointError, match='made with another backbone_weights_sha256'):
        trainer.fit(resolve_config(config))


def test_a_resumed_run_looks_up_no_weights(scenes, state, tmp_path, monkeypatch):
    """The first start finds ImageNet weights; there are none any more when it resumes."""
    original = trainer.log_and_save

    def stop_after_one(*arguments):
        original(*arguments)
        raise KeyboardInterrupt

    def start(out, stops):
        monkeypatch.setattr(backbone, 'pretrained_weights', lambda _: dict(state))
        monkeypatch.setattr(trainer, 'log_and_save', stop_after_one if stops else original)
        trainer.fit(resolve_config(pretrained_config(scenes, out)))

    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / 'stopped', stops=True)
    start(tmp_path / 'whole', stops=False)
    monkeypatch.setattr(backbone, 'pretrained_weights', lambda _: pytest.fail('asked again'))
    trainer.fit(resolve_config(pretrained_config(scenes, tmp_path / 'stopped')))
    assert_equal_weights(weights_of(tmp_path / 'whole'), weights_of(tmp_path / 'stopped'))


def test_a_frozen_beginning_stays_frozen(state, tmp_path):
    options = SMALL['monodetr'] | {'pretrained': True}
    path = write(state, tmp_path / 'weights.safetensors')
    config = build_train_config(
        {'detector': {'name': 'monodetr', 'options': options}, 'backbone_weights': path}
    )
    detector = model_builder.build_model(resolve_config(config)).detector
    frozen = [name for name, each in detector.named_parameters() if not each.requires_grad]
    assert any('conv_stem' in name for name in frozen)
    assert all(name.startswith('backbone.') for name in frozen)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'backbone_weights': 'no.pth'}, 'backbone_weights: no.pth: no such file'),
        ({'pretrained': False}, 'requires detector.options.pretrained: true'),
        ({'backbone_weights_sha256': '0'}, 'has SHA-256 .*, expected 0'),
    ],
)
def test_a_configuration_that_cannot_be_is_one_line(changes, message, state, tmp_path):
    options = {'backbone': NAME, 'pretrained': changes.pop('pretrained', True)}
    path = write(state, tmp_path / 'weights.safetensors')
    data = {'detector': {'options': options}, 'backbone_weights': path, **changes}
    with pytest.raises(ConfigError, match=message):
        resolve_config(build_train_config(data))


def test_weights_of_another_backbone_are_one_line(state, tmp_path):
    path = write({'a': torch.zeros(1)}, tmp_path / 'weights.safetensors')
    options = {'backbone': NAME, 'pretrained': True}
    data = {'detector': {'options': options}, 'backbone_weights': path}
    with pytest.raises(ConfigError, match=r'^backbone_weights: .*not the weights of backbone'):
        model_builder.build_model(resolve_config(build_train_config(data)))
