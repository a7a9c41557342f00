"""Files that people have instead of a published checkpoint: other wrappings, pages, pointers."""

import collections
import copy

import golden
import pytest
import torch
from torch import nn

from stl_core.cli import main
from stl_core.inference import converters
from stl_core.inference.converters.checkpoint_reader import read_state_dict
from stl_core.inference.converters.key_mapping import WeightsError
from stl_core.inference.model_file import load_detector, read_model_spec


class Inner(nn.Module):
    """A module with parameters, buffers, a buffer that is not saved, and a child."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.register_buffer('scale', torch.ones(2))
        self.register_buffer('grid', torch.zeros(5), persistent=False)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.bias = Inner(), nn.Parameter(torch.randn(3))


def assert_reads(saved, expected, path):
    torch.save(saved, path)
    state = read_state_dict(path)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize('kind', ['module', 'parallel', 'nested', 'average'])
@pytest.mark.parametrize('zipped', [True, False])
def test_a_whole_model_has_the_state_dict_that_torch_would_give(kind, zipped, tmp_path):
    model = Outer()
    saved = {
        'module': model,
        'parallel': nn.DataParallel(model),
        'nested': {'epoch': 3, 'model': model},
        'average': {'epoch': 3, 'ema': copy.deepcopy(model)},
    }[kind]
    torch.save(saved, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    state, expected = read_state_dict(tmp_path / 'a.pth'), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


STATE = collections.OrderedDict({'a.b': torch.ones(2), 'c.d': torch.zeros(3)})


@pytest.mark.parametrize(
    'prefix',
    ['module.', '_orig_mod.', 'model.', 'net.', 'module._orig_mod.', '_orig_mod.module.']
    + ['model._orig_mod.', 'model.module.'],
)
def test_what_wrappers_add_to_every_key_is_removed(prefix, tmp_path):
    assert_reads({f'{prefix}{key}': each for key, each in STATE.items()}, STATE, tmp_path / 'a')


@pytest.mark.parametrize(
    'key', ['state_dict', 'net', 'weights', 'ema_state_dict', 'state_dict_ema', 'model_ema', 'ema']
)
def test_state_dicts_under_other_keys_are_found(key, tmp_path):
    assert_reads({'epoch': 1, key: STATE}, STATE, tmp_path / 'a.pth')


def test_of_two_state_dicts_the_plain_one_is_read_and_the_other_named(tmp_path, caplog):
    other = {key: each + 7 for key, each in STATE.items()}
    with caplog.at_level('INFO'):
        assert_reads({'state_dict_ema': other, 'state_dict': STATE}, STATE, tmp_path / 'a.pth')
    assert 'a.pth: state_dict is read; not used: state_dict_ema' in caplog.text


def test_a_tensor_named_like_a_wrapper_is_a_tensor(tmp_path):
    state = {'weights': torch.ones(2), 'model': torch.zeros(1)}
    assert_reads(state, state, tmp_path / 'a.pth')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('version https://git-lfs.github.com/spec/v1\noid sha256:1\n', 'a Git LFS pointer'),
        ('\n<!doctype html>\n<html><head>', 'an HTML page, perhaps of a failed download'),
        ('<HTML>', 'an HTML page'),
        ('', 'an empty file'),
    ],
)
def test_pages_and_pointers_are_named(content, message, tmp_path):
    (tmp_path / 'a.pth').write_text(content)
    with pytest.raises(WeightsError, match=f'a.pth: not a readable checkpoint: {message}'):
        read_state_dict(tmp_path / 'a.pth')
    (tmp_path / 'a.safetensors').write_text(content)
    with pytest.raises(ValueError, match=f'a.safetensors: {message}'):
        read_model_spec(tmp_path / 'a.safetensors')


def test_an_object_that_is_no_model_is_one_line(tmp_path):
    torch.save(collections.Counter(a=1), tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match=r'a\.pth: .*(no tensors|expected a state dict)'):
        read_state_dict(tmp_path / 'a.pth')


def dummy_state_dict(name, classes):
    """Return a program's state dict, with other rows where it has one for each of its classes."""
    heads = {
        'monodle': ('heatmap.2.weight', 'heatmap.2.bias'),
        'monocon': ('head.heatmap_head.3.weight', 'head.heatmap_head.3.bias'),
    }[name]
    state = {
        key: torch.tensor(0.5).expand(shape) for key, shape in golden.read(name)['shapes'].items()
    }
    rows = {key: torch.full((classes, *state[key].shape[1:]), 0.25) for key in heads}
    return {**state, **rows}


@pytest.mark.parametrize('name', ['monodle', 'monocon'])
@pytest.mark.parametrize('classes', ['Car', 'Car,Van,Truck,Pedestrian,Cyclist'])
def test_checkpoints_of_other_classes_are_imported_by_their_names(name, classes, tmp_path, capsys):
    path, out = tmp_path / 'a.pth', tmp_path / 'a.safetensors'
    names = tuple(classes.split(','))
    torch.save(dummy_state_dict(name, len(names)), path)
    with pytest.raises(SystemExit):
        main.main(['import-weights', name, str(path), str(out)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f'the checkpoint has {len(names)} classes, not 3 (' in line
    assert line.endswith('name them in its order with --classes NAME,...')
    main.main(['import-weights', name, str(path), str(out), '--classes', classes])
    spec = read_model_spec(out)
    assert spec.classes == names
    load_detector(out, spec)


@pytest.mark.parametrize('classes', [('Car', 'Car', 'Van'), ('', 'a', 'b')])
def test_classes_without_distinct_names_are_refused(classes):
    with pytest.raises(WeightsError, match='classes: expected distinct names'):
        converters.convert_state_dict('monodle', dummy_state_dict('monodle', 3), classes)


def test_a_model_among_other_parts_is_named(tmp_path):
    """Lightning may save the parts of a loss next to the model."""
    state = {f'model.{key}': each for key, each in dummy_state_dict('monodle', 3).items()}
    state['criterion.weight'] = torch.ones(3)
    count = len(state)
    with pytest.raises(WeightsError, match=f"{count - 1} of {count} keys start with 'model.'"):
        converters.convert_state_dict('monodle', state)
