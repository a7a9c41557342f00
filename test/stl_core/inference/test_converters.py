"""Checkpoints of published programs become students, or it is told which key is wrong."""

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
    """{key: shape} of a program's whole model."""
    if name != 'monodistill':
        return golden.read(name)['shapes']
    both = {
        f'{branch}.{key}': shape
        for branch in ('centernet_rgb', 'centernet_depth')
        for key, shape in shapes('monodle').items()
    }
    between = {'rgb_fs.1.att_conv.0.weight': [2, 1024, 1, 1], 'adapt_layer8.0.bias': [128]}
    return {**both, **between}


def hollow(name):
    """A state dict that takes no room: every tensor is one number seen many times."""
    return {key: torch.tensor(0.5).expand(shape) for key, shape in shapes(name).items()}


programs = pytest.mark.parametrize('name', ['monodle', 'monodistill', 'monocon'])


@programs
def test_weights_fit_and_every_rule_of_a_layout_is_needed(name):
    weights, spec = converters.convert_state_dict(name, hollow(name))
    fitting = build_detector(spec).state_dict()
    assert {key: value.shape for key, value in weights.items()} == {
        key: value.shape for key, value in fitting.items()
    }
    assert spec.provenance['program'] == LAYOUTS[name].program
    for move in LAYOUTS[name].rules:
        if 'bn1?' in move.pattern:  # of one program or the other
            continue
        assert any(re.fullmatch(move.pattern, key) for key in shapes(name)), move
    assert all(LAYOUTS[name].ignored.values())


@programs
def test_a_wrong_key_is_told_by_name(name):
    def refuse(state, message):
        with pytest.raises(WeightsError, match=message):
            converters.convert_state_dict(name, state)

    whole = hollow(name)
    refuse({**whole, 'neck.surprise': torch.zeros(1)}, "'neck.surprise': not a key of")
    key = next(key for key in whole if key.endswith('level2.tree1.conv1.weight'))
    lacking = {other: value for other, value in whole.items() if other != key}
    refuse(lacking, r"'backbone.body.level2.tree1.conv1.weight': no key of this checkpoint")
    refuse({**whole, key: torch.zeros(3, 3)}, rf"'{key}' .*shape \(3, 3\), expected \(64, 32, 3")


def test_rows_that_are_missing_are_told():
    whole = hollow('monocon')
    few = {**whole, 'head.dim_head.3.bias': torch.zeros(2)}
    with pytest.raises(WeightsError, match=r"dim_head.3.bias': .* at least 3 rows"):
        converters.convert_state_dict('monocon', few)


def test_an_unknown_program_is_told():
    with pytest.raises(WeightsError, match="'yolo': not a program we know; known: monodle"):
        converters.convert_state_dict('yolo', {})


def test_sizes_and_keypoints_of_monocon_are_put_in_our_order():
    state = hollow('monocon')
    state['head.dim_head.3.bias'] = torch.tensor([3.9, 1.5, 1.6])  # length, height, width
    state['head.center2kpt_offset_head.3.bias'] = torch.arange(18.0)
    weights, _ = converters.convert_state_dict('monocon', state)
    assert weights['heads.size_3d.outputs.size_3d.bias'].tolist() == pytest.approx([1.5, 1.6, 3.9])
    assert weights['heads.keypoints.outputs.offset_3d.bias'].tolist() == [16, 17]
    assert weights['heads.keypoints.outputs.keypoint_offset.bias'].tolist() == list(range(16))


def test_monodistill_gives_its_student_and_not_its_teacher():
    state = hollow('monodistill')
    state['centernet_rgb.depth.2.bias'] = torch.tensor([1.0, 2.0])
    weights, spec = converters.convert_state_dict('monodistill', state)
    assert weights['heads.depth.2.bias'].tolist() == [1, 2]
    assert spec.detector == 'monodle'
    assert 'centernet_rgb' in spec.provenance['program']


def test_counters_that_old_checkpoints_lack_are_filled_in():
    state = {k: v for k, v in hollow('monodle').items() if not k.endswith('num_batches_tracked')}
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
def test_the_usual_wrappers_are_opened(tmp_path, wrapped):
    state = collections.OrderedDict(a=torch.ones(2), b=torch.zeros(3).half())
    torch.save(wrapped(state), tmp_path / 'a.pth')
    found = read_state_dict(tmp_path / 'a.pth')
    assert found.keys() == state.keys()
    assert torch.equal(found['b'], state['b'])


@pytest.fixture
def foreign():
    """Classes that exist where a checkpoint is saved, and not where it is read."""
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
def test_what_else_a_program_saved_is_passed_over(tmp_path, foreign, zipped):
    frames = foreign.Frames()
    frames.numbers, frames.scale = np.arange(4.0), np.float32(2)
    frames.settings, frames.rows = foreign.Settings(a=1, b={'c': 2}), foreign.Rows([1, 2, 3])
    saved = {'attributes': {'data': frames}, 'state_dict': {'model': {'a': torch.ones(2)}}}
    torch.save(saved, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    del sys.modules['their_dataset']
    assert torch.equal(read_state_dict(tmp_path / 'a.pth')['a'], torch.ones(2))
    assert 'their_dataset' not in sys.modules


class Trap:
    """Runs a command where it is unpickled as pickle would."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize('zipped', [True, False])
def test_nothing_that_a_checkpoint_names_is_run(tmp_path, zipped):
    trap = Trap(str(tmp_path / 'sprung'))
    saved = {'trap': trap, 'model': {'a': torch.ones(2)}}
    torch.save(saved, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    assert read_state_dict(tmp_path / 'a.pth').keys() == {'a'}
    assert not (tmp_path / 'sprung').exists()


def test_files_that_are_no_checkpoints_are_told(tmp_path):
    def refuse(path, message):
        with pytest.raises(WeightsError, match=f'{path.name}: {message}'):
            read_state_dict(path)

    refuse(tmp_path / 'none.pth', 'no such file')
    (tmp_path / 'text.pth').write_bytes(b'hello')
    refuse(tmp_path / 'text.pth', 'not a checkpoint that can be read')
    (tmp_path / 'empty.pth').touch()
    refuse(tmp_path / 'empty.pth', 'not a checkpoint that can be read')
    torch.save([1, 2], tmp_path / 'list.pth')
    refuse(tmp_path / 'list.pth', 'expected a state dict, got list')
    torch.save({'loss': 1.0}, tmp_path / 'log.pth')
    refuse(tmp_path / 'log.pth', 'no tensors here, but loss; expected them in')


def test_the_command_writes_a_student_that_says_where_it_is_from(tmp_path, capsys):
    torch.save({'model_state': hollow('monodistill')}, tmp_path / 'epoch_160.pth')
    out = tmp_path / 'student.safetensors'
    main.main(['import-weights', 'monodistill', str(tmp_path / 'epoch_160.pth'), str(out)])
    assert 'monodle for Pedestrian, Car, Cyclist' in capsys.readouterr().out
    spec = read_model_spec(out)
    assert spec.provenance['file'] == 'epoch_160.pth'
    assert len(spec.provenance['sha256']) == 64
    assert load_detector(out, spec).heads['depth'][2].bias.tolist() == [0.5, 0.5]
    with pytest.raises(SystemExit) as stopped:
        main.main(['import-weights', 'monocon', str(tmp_path / 'epoch_160.pth'), str(out)])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert 'not a key of 2gunsu/monocon-pytorch' in told
    assert len(told.splitlines()) == 1
