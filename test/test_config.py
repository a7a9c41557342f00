import re
from pathlib import Path

import pytest

from stl_core import config
from stl_core.models import monodle

ROOT = Path(__file__).resolve().parents[1]


def refuse(data, message):
    with pytest.raises(config.ConfigError, match=re.escape(message)):
        config.build_train(data)


def test_nothing_given_is_all_defaults():
    built = config.build_train({})
    assert built.detector.options == monodle.Config()
    assert built.epochs == 140


@pytest.mark.parametrize(
    'path', sorted((ROOT / 'config/train').glob('*.yaml')), ids=lambda p: p.stem
)
def test_every_committed_configuration_loads(path):
    built = config.load(path)
    assert built.train.sources


def test_every_refusal_names_the_path():
    refuse({'optim': {'learning_rate': 1}}, 'optim.learning_rate: unknown key; known: drops, ')
    refuse({'optim': {'lr': '1e-5'}}, "optim.lr: expected float, got the text '1e-5'; YAML reads")
    refuse({'optim': {'lr': [1]}}, 'optim.lr: expected float, got [1]')
    refuse({'epochs': 1.5}, 'epochs: expected int, got 1.5')
    refuse({'epochs': True}, 'epochs: expected int, got True')
    refuse({'classes': 'Car'}, "classes: expected a list, got 'Car'")
    refuse({'input': {'mean': [1.0, 2.0]}}, 'input.mean: expected 3 values, got 2')
    refuse({'input': {'width_px': 1242}}, 'input: input size must be multiples of 32')
    refuse({'train': 3}, 'train: expected keys and values, got 3')
    refuse({'train': {'sources': [{'image_2': 'x'}]}}, 'train.sources[0].calib: missing')
    refuse({'detector': {'name': 'yolo'}}, "detector.name: 'yolo' is unknown; known: monodle")
    refuse({'detector': {'options': {'width': 3}}}, 'detector.options.width: unknown key; known: ')
    refuse({'weights': {'det/depth': 'x'}}, "weights.det/depth: expected float, got 'x'")


def test_integers_become_floats_and_lists_tuples():
    built = config.build_train(
        {'optim': {'lr': 1, 'drops': [0.5]}, 'classes': ['Car', 'Van', 'Bus']}
    )
    assert built.optim.lr == 1.0
    assert isinstance(built.optim.lr, float)
    assert built.optim.drops == (0.5,)
    assert built.classes == ('Car', 'Van', 'Bus')


def test_overrides_come_on_top(tmp_path):
    path = tmp_path / 'a.yaml'
    path.write_text('epochs: 3\n')
    built = config.load(path, ('epochs=7', 'optim.lr=0.5', 'detector.options.neck=light'))
    assert (built.epochs, built.optim.lr, built.detector.options.neck) == (7, 0.5, 'light')
    with pytest.raises(config.ConfigError, match="'epochs': expected key=value"):
        config.load(path, ('epochs',))
    with pytest.raises(config.ConfigError, match='epochs is not a group'):
        config.load(path, ('epochs.x=1',))


@pytest.mark.parametrize(
    ('text', 'message'),
    [(None, 'no such file'), ('a: [', 'not YAML'), ('- 1', 'expected keys and values, got list')],
)
def test_unusable_files_are_named(tmp_path, text, message):
    path = tmp_path / 'a.yaml'
    if text is not None:
        path.write_text(text)
    with pytest.raises(config.ConfigError, match=rf'a.yaml: .*{message}'):
        config.load(path)


def test_the_environment_fills_paths(monkeypatch):
    monkeypatch.setenv('HERE', '/data')
    assert config.expand('${HERE}/a ${NOT_SET_ANYWHERE:-b}') == '/data/a b'
    with pytest.raises(config.ConfigError, match='NOT_SET_ANYWHERE is not set'):
        config.expand('${NOT_SET_ANYWHERE}')
