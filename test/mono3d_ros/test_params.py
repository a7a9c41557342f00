"""Parameters: defaults, casts and errors, and their lists in the YAML file and the docs."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from mono3d_ros.params import CameraParams, Params

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'config' / 'detector.yaml'


def test_yaml_file_contains_every_parameter_with_its_default():
    (node,) = yaml.safe_load(CONFIG.read_text()).values()
    values = node['ros__parameters']
    assert list(values) == [each.name for each in fields(Params)]
    assert Params(**values) == Params()
    for name, value in values.items():  # other nodes would read 1 for 1.0 as an integer
        assert type(value) is type(getattr(Params(), name)) or isinstance(value, list), name


def test_every_parameter_has_a_description():
    for each in (*fields(Params), *fields(CameraParams)):
        assert each.metadata['description'].endswith('.'), each.name


def test_integers_become_floats():
    params = Params(score_threshold=1, class_thresholds=[0, 1])
    assert isinstance(params.score_threshold, float)
    assert params.class_thresholds == (0.0, 1.0)


@pytest.mark.parametrize('empty', [None, [], ()])
def test_empty_list(empty):
    assert Params(class_thresholds=empty).class_thresholds == ()


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('score_threshold', 1.5, 'score_threshold: expected 0 to 1, got 1.5'),
        ('score_threshold', -1, 'score_threshold: expected 0 to 1, got -1'),
        ('score_threshold', '0.5', "score_threshold: expected a number, got '0.5'"),
        ('score_threshold', True, 'score_threshold: expected a number, got True'),
        ('score_threshold', float('nan'), 'score_threshold: expected a number, got nan'),
        ('score_threshold', None, 'score_threshold: expected a number, got None'),
        ('class_thresholds', [0.5, 2.0], 'class_thresholds: expected 0 to 1, got 2'),
        ('class_thresholds', 0.5, 'class_thresholds: expected a list of numbers, got 0.5'),
        ('class_thresholds', ['a'], "class_thresholds: expected a number, got 'a'"),
        ('rectified', 1, 'rectified: expected auto, true or false, got 1'),
        ('bit_depth', 7, 'bit_depth: expected 0 or 8 to 16 bits, got 7'),
        ('bit_depth', True, 'bit_depth: expected 0 or 8 to 16 bits, got True'),
        ('model', 5, 'model: expected a string, got 5'),
        ('transport', 'jpeg', "transport: expected one of raw, compressed, auto, got 'jpeg'"),
        ('reliability', 'some', 'reliability: expected one of best_effort, reliable'),
        ('device', 'gpu', "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        ('device', 'cuda:x', 'device: expected'),
        ('max_age_s', -0.1, 'max_age_s: expected 0 to 3600, got -0.1'),
        ('max_rate_hz', -1, 'max_rate_hz: expected 0 to 1000, got -1'),
        ('precision', 'int8', "precision: expected one of fp32, bf16, fp16, got 'int8'"),
        ('cameras', 'front', "cameras: expected a list of strings, got 'front'"),
        ('cameras', [1], 'cameras: expected a string, got 1'),
        ('cameras', ['a', 'a'], 'cameras: expected different names, got a, a'),
        ('cameras', ['1st'], "cameras: expected names of letters.*got '1st'"),
        ('cameras', ['any'], "cameras: expected names .* not 'any', got 'any'"),
        ('trigger', 'front', "trigger: expected one of any, got 'front'"),
        ('distance_thresholds', [30.0], 'distance_thresholds: expected pairs .*got 1 numbers'),
        (
            'distance_thresholds',
            [30, 0.1, 20, 0.2],
            'distance_thresholds: .*ascending.* 30, 20',
        ),
        (
            'distance_thresholds',
            [0, 0.1],
            'distance_thresholds: .*ascending .*above 0, got 0',
        ),
        ('distance_thresholds', [30, 1.1], 'distance_thresholds: expected scores .* got 1.1'),
        ('class_names_kept', [None], 'class_names_kept: expected a string, got None'),
    ],
)
def test_errors_name_the_parameter(name, value, message):
    with pytest.raises(ValueError, match=f'parameter {message}'):
        Params(**{name: value})
    with pytest.raises(ValueError, match=f'parameter {message}'):
        replace(Params(), **{name: value})


@pytest.mark.parametrize(
    ('value', 'expected'),
    [(True, 'true'), (False, 'false'), ('true', 'true'), ('False', 'false'), ('auto', 'auto')],
)
def test_rectified_is_a_word_or_a_bool(value, expected):
    """YAML and -p make a bool of true and false, launch arguments a string."""
    assert Params(rectified=value).rectified == expected
    assert CameraParams(rectified=value).rectified == expected


@pytest.mark.parametrize('device', ['auto', 'cpu', 'cuda', 'cuda:1'])
def test_devices(device):
    assert Params(device=device).device == device


def test_class_thresholds():
    classes = ('Car', 'Pedestrian')
    assert Params(score_threshold=0.4).min_scores(classes) == (0.4, 0.4)
    assert Params(class_thresholds=[0.1, 0.2]).min_scores(classes) == (0.1, 0.2)
    with pytest.raises(ValueError, match=r'expected 2 numbers, for Car, Pedestrian, .*got 1'):
        Params(class_thresholds=[0.1]).min_scores(classes)


def test_detection_filter_of_parameters():
    classes = ('Car', 'Pedestrian', 'Cyclist')
    params = Params(
        score_threshold=0.2,
        distance_thresholds=[30, 0.4, 60, 0.3],
        class_names_kept=['Cyclist', 'Car'],
        max_age_s=1,
    )
    detection_filter = params.detection_filter(classes)
    assert detection_filter.min_scores == (0.2, 0.2, 0.2)
    assert detection_filter.distance_thresholds == ((30.0, 0.4), (60.0, 0.3))
    assert detection_filter.kept_classes == (True, False, True)
    assert detection_filter.max_age_s == 1.0
    assert Params().detection_filter(classes).kept_classes == ()
    with pytest.raises(ValueError, match=r'class_names_kept: .* among Car, Pedestrian, Cyclist'):
        Params(class_names_kept=['Truck']).detection_filter(classes)


def test_cameras():
    params = Params(cameras=['front', 'left'], trigger='left', transport='raw', rectified=False)
    assert params.camera_defaults('front') == CameraParams('front/image_raw', '', 'raw', 'false')
    with pytest.raises(ValueError, match='parameter trigger: expected one of any, front, left'):
        replace(params, trigger='right')
    with pytest.raises(ValueError, match='parameter transport: expected one of raw'):
        CameraParams('front/image_raw', '', 'jpeg', True)
    assert Params(bit_depth=12).camera_defaults('front').bit_depth == 12
    assert Params(bit_depth=12).single_camera().bit_depth == 12
    only = Params(image_topic='a/image', camera_info_topic='b/info', rectified=False)
    assert only.single_camera() == CameraParams('a/image', 'b/info', 'auto', 'false')


def test_parameters_page_lists_every_parameter():
    page = (ROOT / 'docs' / 'parameters.md').read_text()
    parameters = [(each.name, each) for each in fields(Params)]
    for name, each in [
        *parameters,
        *((f'NAME.{each.name}', each) for each in fields(CameraParams)),
    ]:
        default = each.default
        if isinstance(default, bool):
            default = str(default).lower()
        text = "''" if default == '' else '[]' if default == () else default
        star = ' *' if each.metadata['live'] else ''
        row = f'| `{name}`{star} | `{text}` | {each.metadata["description"]} |'
        assert row in page, row
