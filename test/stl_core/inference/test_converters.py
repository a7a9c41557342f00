"""Published checkpoints convert to model files, or an error names the key that does not fit."""

import collections
import os
import re
import sys
import types

import golden
import numpy as np
import pytest
import torch

from stl_core.cli import main
from stl_core.inference import converters
from stl_core.inference.converters import LAYOUTS
from stl_core.inference.converters.checkpoint_reader import read_state_dict
from stl_core.inference.converters.key_mapping import WeightsError
from stl_core.inference.model_file import build_detector, load_detector, read_model_spec


def shapes(name):
    """Return {key: shape} of a program's whole model."""
    if name != 'monodistill':
        return golden.read(name)['shapes']
    both = {
        f'{branch}.{key}': shape
        for branch in ('centernet_rgb', 'centernet_depth')
        for key, shape in shapes('monodle').items()
    }
    between = {'rgb_fs.1.att_conv.0.weight': [2, 1024, 1, 1], 'adapt_layer8.0.bias': [128]}
    return {**both, **between}


def dummy_state_dict(name):
    """Return a state dict with little memory: every tensor is a view of one number."""
    return {key: torch.tensor(0.5).expand(shape) for key, shape in shapes(name).items()}


programs = pytest.mark.parametrize('name', ['monodle', 'monodistill', 'monocon'])


@programs
def test_converted_weights_fit_and_every_rule_is_used(name):
    weights, spec = converters.convert_state_dict(name, dummy_state_dict(name))
    expected = build_detector(spec).state_dict()
    assert {key: value.shape for key, value in weights.items()} == {
        key: value.shape for key, value in expected.items()
    }
    assert spec.provenance['program'] == LAYOUTS[name].program
    for rule in LAYOUTS[name].rules:
        if 'bn1?' in rule.pattern:  # covers the key names of two programs
            continue
        assert any(re.fullmatch(rule.pattern, key) for key in shapes(name)), rule
    assert all(LAYOUTS[name].ignored.values())


@programs
def test_errors_name_the_wrong_key(name):
    def expect_error(invalid, message):
        with pytest.raises(WeightsError, match=message):
            converters.convert_state_dict(name, invalid)

    state = dummy_state_dict(name)
    expect_error({**state, 'neck.surprise': torch.zeros(1)}, "'neck.surprise': not a key of")
    key = next(key for key in state if key.endswith('level2.tree1.conv1.weight'))
    incomplete = {other: value for other, value in state.items() if other != key}
    expect_error(
        incomplete, r"'backbone.body.level2.tree1.conv1.weight': missing in this checkpoint"
    )
    expect_error(
        {**state, key: torch.zeros(3, 3)}, rf"'{key}' .*shape \(3, 3\), expected \(64, 32, 3"
    )


def test_a_tensor_with_too_few_rows_is_an_error():
    state = {**dummy_state_dict('monocon'), 'head.dim_head.3.bias': torch.zeros(2)}
    with pytest.raises(WeightsError, match=r"dim_head.3.bias': .* at least 3 rows"):
        converters.convert_state_dict('monocon', state)


def test_an_unknown_program_is_an_error():
    with pytest.raises(WeightsError, match="'yolo': unknown program; known: monodle"):
        converters.convert_state_dict('yolo', {})


def test_rows_of_monocon_sizes_and_keypoints_are_reordered():
    state = dummy_state_dict('monocon')
    state['head.dim_head.3.bias'] = torch.tensor([3.9, 1.5, 1.6])  # length, height, width
    state['head.center2kpt_offset_head.3.bias'] = torch.arange(18.0)
    weights, _ = converters.convert_state_dict('monocon', state)
    assert weights['heads.size_3d.outputs.size_3d.bias'].tolist() == pytest.approx([1.5, 1.6, 3.9])
    assert weights['heads.keypoints.outputs.offset_3d.bias'].tolist() == [16, 17]
    assert weights['heads.keypoints.outputs.keypoint_offset.bias'].tolist() == list(range(16))


def test_monodistill_converts_its_student_and_not_its_teacher():
    state = dummy_state_dict('monodistill')
    state['centernet_rgb.depth.2.bias'] = torch.tensor([1.0, 2.0])
    weights, spec = converters.convert_state_dict('monodistill', state)
    assert weights['heads.depth.2.bias'].tolist() == [1, 2]
    assert spec.detector == 'monodle'
    assert 'centernet_rgb' in spec.provenance['program']


def test_missing_batch_counters_of_old_checkpoints_are_set_to_0():
    state = dummy_state_dict('monodle')
    state = {k: v for k, v in state.items() if not k.endswith('num_batches_tracked')}
    weights, _ = converters.convert_state_dict('monodle', state)
    assert weights['neck.stages.0.0.node.1.num_batches_tracked'].item() == 0


@pytest.mark.parametrize(
    'wrapped',
    [
        lambda state: state,
        lambda state: {'epoch': 140, 'model_state': state, 'optimizer_state': None},
        lambda state: {'state_dict': {'model': state, 'optimizer': {'state': {}}}},
        lambda state: {'model': {f'module.{key}': value for key, value in state.items()}},
    ],
    ids=['bare', 'model_state', 'nested', 'parallel'],
)
def test_the_state_dict_is_found_below_usual_keys(tmp_path, wrapped):
    state = collections.OrderedDict(a=torch.ones(2), b=torch.zeros(3).half())
    torch.save(wrapped(state), tmp_path / 'a.pth')
    result = read_state_dict(tmp_path / 'a.pth')
    assert result.keys() == state.keys()
    assert torch.equal(result['b'], state['b'])


@pytest.fixture
def unknown_classes():
    """Provide a module with classes that exist when a checkpoint is saved but not when read."""
    module = types.ModuleType('their_dataset')

    class Frames:
        pass

    class Settings(dict):
        pass

    class Rows(list):
        pass

    for kind in (Frames, Settings, Rows):
        kind.__module__, kind.__qualname__ = 'their_dataset', kind.__name__
        setattr(module, kind.__name__, kind)
    sys.modules['their_dataset'] = module
    yield module
    sys.modules.pop('their_dataset', None)


@pytest.mark.parametrize('zipped', [True, False])
def test_objects_of_unknown_classes_are_ignored(tmp_path, unknown_classes, zipped):
    frames = unknown_classes.Frames()
    frames.numbers, frames.scale = np.arange(4.0), np.float32(2)
    frames.settings = unknown_classes.Settings(a=1, b={'c': 2})
    frames.rows = unknown_classes.Rows([1, 2, 3])
    saved = {'attributes': {'data': frames}, 'state_dict': {'model': {'a': torch.ones(2)}}}
    torch.save(saved, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    del sys.modules['their_dataset']
    assert torch.equal(read_state_dict(tmp_path / 'a.pth')['a'], torch.ones(2))
    assert 'their_dataset' not in sys.modules


class Trap:
    """An object that creates a folder when a standard unpickler loads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize('zipped', [True, False])
def test_pickled_code_is_not_executed(tmp_path, zipped):
    trap = Trap(str(tmp_path / 'sprung'))
    saved = {'trap': trap, 'model': {'a': torch.ones(2)}}
    torch.save(saved, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    assert read_state_dict(tmp_path / 'a.pth').keys() == {'a'}
    assert not (tmp_path / 'sprung').exists()


def test_unreadable_checkpoints_are_errors(tmp_path):
    def expect_error(path, message):
        with pytest.raises(WeightsError, match=f'{path.name}: {message}'):
            read_state_dict(path)

    expect_error(tmp_path / 'none.pth', 'no such file')
    (tmp_path / 'text.pth').write_bytes(b'hello')
    expect_error(tmp_path / 'text.pth', 'not a readable checkpoint')
    (tmp_path / 'empty.pth').touch()
    expect_error(tmp_path / 'empty.pth', 'not a readable checkpoint')
    torch.save([1, 2], tmp_path / 'list.pth')
    expect_error(tmp_path / 'list.pth', 'expected a state dict, got list')
    torch.save({'loss': 1.0}, tmp_path / 'log.pth')
    expect_error(tmp_path / 'log.pth', 'no tensors, only loss; expected tensors in')


def test_import_weights_writes_a_model_file_with_its_provenance(tmp_path, capsys):
    torch.save({'model_state': dummy_state_dict('monodistill')}, tmp_path / 'epoch_160.pth')
    out = tmp_path / 'student.safetensors'
    main.main(['import-weights', 'monodistill', str(tmp_path / 'epoch_160.pth'), str(out)])
    assert 'monodle for Pedestrian, Car, Cyclist' in capsys.readouterr().out
    spec = read_model_spec(out)
    assert spec.provenance['file'] == 'epoch_160.pth'
    assert len(spec.provenance['sha256']) == 64
    assert load_detector(out, spec).heads['depth'][2].bias.tolist() == [0.5, 0.5]
    with pytest.raises(SystemExit) as exited:
        main.main(['import-weights', 'monocon', str(tmp_path / 'epoch_160.pth'), str(out)])
    assert exited.value.code == 2
    printed = capsys.readouterr().err
    assert 'not a key of 2gunsu/monocon-pytorch' in printed
    assert len(printed.splitlines()) == 1


def test_a_checkpoint_that_is_not_finite_is_not_imported(tmp_path, capsys):
    state = dummy_state_dict('monodistill')
    name = next(key for key, value in state.items() if value.is_floating_point())
    state[name] = torch.full_like(state[name], float('nan'))
    torch.save({'model_state': state}, tmp_path / 'epoch_160.pth')
    out = tmp_path / 'student.safetensors'
    with pytest.raises(SystemExit):
        main.main(['import-weights', 'monodistill', str(tmp_path / 'epoch_160.pth'), str(out)])
    line = capsys.readouterr().err
    assert re.search(r'epoch_160\.pth: 1 of \d+ tensors are not finite', line)
    assert not out.exists()
