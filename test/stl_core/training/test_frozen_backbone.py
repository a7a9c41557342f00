"""MonoDETR's frozen beginning: every stage trains the same parameters, whatever it starts from."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_detectors import SMALL
from small_run import small_config
from small_stages import make_scenes_with_depth, plan
from torch import nn

from stl_core.inference import model_file
from stl_core.inference.runtimes.interface import ModelFileError
from stl_core.models import backbone, monodetr
from stl_core.training import checkpoint, model_builder, stages
from stl_core.training.config import DetectorConfig
from stl_core.training.resolved_config import resolve_config

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(autouse=True)
def random_backbone(monkeypatch):
    """Let `pretrained` load nothing; return the backbones whose weights were looked up."""
    looked_up = []
    monkeypatch.setattr(backbone, 'pretrained_weights', looked_up.append)
    return looked_up


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes_with_depth(tmp_path_factory.mktemp('kitti'), 3)


def build_stages(scenes, out, **options):
    """Return the resolved stages of a MonoDETR plan whose model files exist, untrained."""
    data = plan(scenes, out)
    data['detector'] = {'name': 'monodetr', 'options': {**SMALL['monodetr'], **options}}
    data['stages']['distil']['distill']['losses'] = {'feature': {}}
    data['stages']['distil']['weights'] = {'distill/feature': 1.0}
    data['stages']['teacher']['input']['depth']['virtual_focal_px'] = 720.0
    built, resolved = stages.build_stages(data), {}
    for name, config in built.items():
        resolved[name] = resolve_config(config)
        spec = resolved[name].model_spec
        detector = model_builder.build_model(resolved[name]).detector
        model_file.save_model(out / name / 'student.safetensors', detector, spec)
    return resolved


def trained_parts(resolved):
    """Return the names of trainable parameters and of norms with running updates."""
    detector = model_builder.build_model(resolved).detector.train()
    names = {name for name, p in detector.named_parameters() if p.requires_grad}
    norms = {
        name
        for name, module in detector.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    }
    return names, norms


def imported(path, out_options):
    """Write a model file as `stl import-weights` does, by a version without freeze_beginning."""
    config = monodetr.MonoDETRConfig(**out_options)
    detector = monodetr.MonoDETR(config, in_channels=3, num_classes=3)
    header = {
        'classes': ['Pedestrian', 'Car', 'Cyclist'],
        'input': {'width_px': 160, 'height_px': 64},
        'detector': 'monodetr',
        'options': {k: v for k, v in dataclasses.asdict(config).items() if 'freeze' not in k},
        'provenance': {},
    }
    metadata = {model_file.METADATA_KEY: json.dumps(header)}
    save_file(detector.state_dict(), path, metadata=metadata)


def test_base_distilled_student_and_fine_tuning_train_the_same_parameters(scenes, tmp_path):
    resolved = build_stages(scenes, tmp_path, pretrained=True)
    names, norms = trained_parts(resolved['base'])
    assert 'backbone.body.conv_stem.weight' not in names
    assert 'backbone.body.blocks.2.0.pw_exp.conv.weight' in names
    assert not any(name.startswith('backbone') for name in norms)
    assert trained_parts(resolved['distil']) == (names, norms)
    imported(tmp_path / 'published.safetensors', SMALL['monodetr'])
    base = resolved['base'].config
    classes = ('Pedestrian', 'Car', 'Cyclist')
    tuned = dataclasses.replace(
        base, start=str(tmp_path / 'published.safetensors'), classes=classes
    )
    assert trained_parts(resolve_config(tuned)) == (names, norms)


def test_a_start_model_replaces_the_lookup_of_pretrained_weights(
    scenes, tmp_path, random_backbone
):
    resolved = build_stages(scenes, tmp_path, pretrained=True)['distil']
    assert random_backbone == ['mobilenetv4_conv_small'] * 2  # of the base and of the teacher
    model_builder.build_model(resolved)
    assert len(random_backbone) == 2


@pytest.mark.parametrize(
    ('pretrained', 'freeze', 'frozen'),
    [(True, None, True), (False, None, False), (False, True, True), (True, False, False)],
)
def test_the_option_freezes_with_and_without_pretrained_weights(pretrained, freeze, frozen):
    options = {**SMALL['monodetr'], 'pretrained': pretrained, 'freeze_beginning': freeze}
    config = monodetr.MonoDETRConfig(**options)
    assert config.freeze_beginning is frozen
    assert dataclasses.replace(config, pretrained=not pretrained).freeze_beginning is frozen
    detector = monodetr.MonoDETR(config, in_channels=3, num_classes=3).train()
    assert detector.backbone.body.conv_stem.weight.requires_grad is not frozen
    assert detector.backbone.training is not frozen
    depth = monodetr.MonoDETR(config, in_channels=2, num_classes=3).train()
    assert depth.backbone.body.conv_stem.weight.requires_grad


def test_model_files_and_configurations_without_the_option_still_load(scenes, tmp_path):
    path = tmp_path / 'old.safetensors'
    imported(path, {**SMALL['monodetr'], 'pretrained': True})
    spec = model_file.read_model_spec(path)
    assert 'freeze_beginning' not in spec.options
    detector = model_file.load_detector(path, spec)
    assert detector.config.freeze_beginning is True
    with safe_open(path, 'pt') as file:
        assert torch.equal(detector.queries.weight, file.get_tensor('queries.weight'))
    older = dataclasses.replace(
        spec, options={k: v for k, v in spec.options.items() if k != 'width'}
    )
    with pytest.raises(ModelFileError, match='made by an older version, without width;'):
        model_file.load_detector(path, older)
    options = monodetr.MonoDETRConfig(**SMALL['monodetr'], pretrained=True)
    old = small_config(scenes, tmp_path / 'run', detector=DetectorConfig('monodetr', options))
    record = dataclasses.asdict(old)
    del record['detector']['options']['freeze_beginning']
    resolved = resolve_config(old)
    assert checkpoint.config_differences(resolved, record) == []
