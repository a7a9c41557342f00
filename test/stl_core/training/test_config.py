"""TrainConfig: defaults, YAML files, overrides, strict checks, metrics."""

import dataclasses
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stl_core.data.sources import nuscenes
from stl_core.evaluation.ap_result import (
    CLASSES,
    DIFFICULTY_NAMES,
    KINDS,
    MIN_IOU,
    POINTS,
    ApResult,
    ClassAp,
)
from stl_core.evaluation.metric import MetricResults
from stl_core.evaluation.metrics import parse_selection
from stl_core.evaluation.nuscenes.names import CLASSES as NUSCENES_CLASSES
from stl_core.models import monodle
from stl_core.models.centernet.heads import MEAN_SIZE_HWL_M
from stl_core.training import config, config_builder, stages
from stl_core.training.config_builder import ConfigError
from stl_core.vehicle_types import VehicleLabels

ROOT = Path(__file__).resolve().parents[3]


def expect_error(data, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        config.build_train_config(data)


def test_an_empty_configuration_has_all_defaults():
    built = config.build_train_config({})
    assert built.detector.options == monodle.MonoDLEConfig()
    assert built.epochs == 140


@pytest.mark.parametrize(
    'path', sorted((ROOT / 'config/train').glob('*.yaml')), ids=lambda p: p.stem
)
def test_every_committed_configuration_loads(path):
    for built in stages.load_stages(path).values():
        assert built.train.sources


@pytest.mark.parametrize(
    ('name', 'epochs', 'batch_size', 'optim', 'distil'),
    [
        # drops in epochs, which follow five warm-up epochs; the distillation has other drops
        ('monodle', 140, 24, {'lr': 1.25e-3, 'weight_decay': 1e-5, 'drops': (95, 125)}, (200, 12)),
        ('monocon', 200, 8, {'lr': 2.25e-4, 'weight_decay': 1e-5, 'max_norm': 35.0}, (200, 8)),
        ('monodetr', 195, 16, {'lr': 2e-4, 'weight_decay': 1e-4, 'drops': (125, 165)}, (195, 16)),
    ],
)
def test_kitti_configurations_have_published_schedules(name, epochs, batch_size, optim, distil):
    plan = stages.load_stages(ROOT / f'config/train/monostl_{name}_kitti.yaml')
    assert list(plan) == ['teacher', 'base', 'distil', 'control']
    for stage in ('teacher', 'base'):
        assert (plan[stage].epochs, plan[stage].batch_size) == (epochs, batch_size)
        drops = tuple(round(fraction * epochs) for fraction in plan[stage].optim.drops)
        actual = {**vars(plan[stage].optim), 'drops': drops}
        assert {key: actual[key] for key in optim} == optim
    assert (plan['distil'].epochs, plan['distil'].batch_size) == distil
    if name == 'monodle':
        assert [round(200 * fraction) for fraction in plan['distil'].optim.drops] == [125, 165]
    assert [each.input.depth is not None for each in plan.values()] == [
        *(True, False, False, False)
    ]
    assert plan['distil'].start == f'{plan["base"].out}/student.safetensors'
    assert plan['distil'].distill.teacher == f'{plan["teacher"].out}/student.safetensors'
    assert plan['distil'].distill.losses.keys() == {'feature', 'relation', 'response'}
    assert {each.detector.name for each in plan.values()} == {name}


def test_every_distillation_plan_has_a_control_of_equal_epochs():
    """The control differs from the student in the distillation and in the folder only."""
    plans = [
        each
        for kind in ('monostl', 'dk3d')
        for each in sorted((ROOT / 'config/train').glob(f'{kind}_*.yaml'))
    ]
    assert len(plans) == 7 + 6
    for path in plans:
        plan = stages.load_stages(path)
        for stage in (each for name, each in plan.items() if name.startswith('distil')):
            without = dataclasses.replace(stage, distill=None, out=plan['control'].out)
            names = [name for name in without.weights if name.startswith('distill/')]
            weights = {name: value for name, value in without.weights.items() if name not in names}
            assert names
            assert dataclasses.replace(without, weights=weights) == plan['control'], path.name


def test_plans_of_dk3d_have_both_teachers_and_the_composition():
    for path in sorted((ROOT / 'config/train').glob('dk3d_*.yaml')):
        plan = stages.load_stages(path)
        given = {name: each.input.given_depth for name, each in plan.items()}
        assert given.pop('teacher') == 'scan'
        assert given.pop('teacher_objects') == 'objects'
        assert set(given.values()) == {''}
        of_kind = {'cpl', 'asb', 'tsrd'} if 'monodetr' in path.name else {'vda', 'tsrd'}
        for name, more in (
            ('', set()),
            ('_objects', set()),
            ('_with_monostl', {'feature', 'relation', 'response'}),
        ):
            stage = plan[f'distil{name}']
            assert stage.distill.losses.keys() == of_kind | more
            assert stage.start == f'{plan["base"].out}/student.safetensors'


def test_the_kitti_plans_teach_the_objects_of_the_public_programs():
    """MonoDLE and MonoDETR ask for y1 - y0 + 1 >= 25, MonoCon for y1 - y0 >= 25."""
    for path in sorted((ROOT / 'config/train').glob('*_kitti.yaml')):
        least = 25.0 if 'monocon' in path.name else 24.0
        for stage in stages.load_stages(path).values():
            assert stage.train.min_height_px == least, path.name


def test_every_error_names_the_key():
    expect_error(
        {'optim': {'learning_rate': 1}}, 'optim.learning_rate: unknown key; known: betas, '
    )
    expect_error(
        {'optim': {'lr': '1e-5'}}, "optim.lr: expected float, got the text '1e-5'; YAML reads"
    )
    expect_error({'optim': {'lr': [1]}}, 'optim.lr: expected float, got [1]')
    expect_error({'epochs': 1.5}, 'epochs: expected int, got 1.5')
    expect_error({'epochs': True}, 'epochs: expected int, got True')
    expect_error({'classes': 'Car'}, "classes: expected a list, got 'Car'")
    expect_error({'input': {'mean': [1.0, 2.0]}}, 'input.mean: expected 3 values, got 2')
    expect_error({'input': {'width_px': 1242}}, 'input: input size must be multiples of 32')
    expect_error({'train': 3}, 'train: expected keys and values, got 3')
    expect_error({'train': {'sources': [{'image_2': 'x'}]}}, 'train.sources[0].calib: missing')
    expect_error(
        {'detector': {'name': 'yolo'}}, "detector.name: 'yolo' is unknown; known: monodle"
    )
    expect_error(
        {'detector': {'options': {'width': 3}}}, 'detector.options.width: unknown key; known: '
    )
    expect_error({'weights': {'det/depth': 'x'}}, "weights.det/depth: expected float, got 'x'")


def test_integers_become_floats_and_lists_become_tuples():
    built = config.build_train_config(
        {'optim': {'lr': 1, 'drops': [0.5]}, 'classes': ['Car', 'Van', 'Truck']}
    )
    assert built.optim.lr == 1.0
    assert isinstance(built.optim.lr, float)
    assert built.optim.drops == (0.5,)
    assert built.classes == ('Car', 'Van', 'Truck')


def test_nuscenes_classes_have_sizes_near_those_of_real_labels(mono3d_data):
    root = mono3d_data / 'extras/nuscenes_mini_val'
    if not root.exists():
        pytest.skip(f'{root} is absent')
    source = nuscenes.NuscenesSource(nuscenes.NuscenesFolder(str(root)))
    labels = VehicleLabels.concatenate([source.read(each).labels for each in source.ids])
    for name in NUSCENES_CLASSES:
        sizes = labels.size_hwl_m[labels.name == name]
        if len(sizes) > 100:
            np.testing.assert_allclose(MEAN_SIZE_HWL_M[name], sizes.mean(0), rtol=0.3)


def test_default_mean_sizes_match_the_classes():
    sizes = config.build_train_config({'classes': ['Van', 'Car']}).detector.options.mean_size_hwl_m
    assert sizes == ((2.187, 1.913, 5.147), monodle.MonoDLEConfig().mean_size_hwl_m[0])
    data = {'classes': ['Tractor'], 'eval_every': 0}
    expect_error(
        data, 'detector.options.mean_size_hwl_m: required, no default for Tractor; defaults: Car'
    )
    data['classes'] = ['CAR', 'Van', 'TRAM']
    expect_error(data, 'classes: unknown CAR, TRAM; did you mean Car, Tram, car?')
    data['classes'] = ['Bus']
    data['detector'] = {'options': {'mean_size_hwl_m': [[3, 2.5, 12]]}}
    assert config.build_train_config(data).detector.options.mean_size_hwl_m == ((3.0, 2.5, 12.0),)
    data['classes'] = ['Bus', 'Car']
    expect_error(
        data, 'detector.options.mean_size_hwl_m: expected a row for each of the 2 classes, got'
    )


def test_default_mean_sizes_equal_the_means_of_the_labels(mono3d_data):
    """KITTI's train split; the published sizes of the evaluated classes differ by a few cm."""
    archive = mono3d_data / 'kitti_train_split_labels.zip'
    if not archive.exists():
        pytest.skip('no labels of the train split')
    sizes = {name: [] for name in MEAN_SIZE_HWL_M if name not in NUSCENES_CLASSES}
    with zipfile.ZipFile(archive) as files:
        for name in (each for each in files.namelist() if each.endswith('.txt')):
            for line in files.read(name).decode().splitlines():
                kind, *numbers = line.split()
                if kind in sizes:
                    sizes[kind].append([float(number) for number in numbers[7:10]])
    for kind in sizes:
        size = MEAN_SIZE_HWL_M[kind]
        is_published = kind in ('Car', 'Pedestrian', 'Cyclist')
        tolerance = 0.035 if is_published else 0.0006
        np.testing.assert_allclose(np.mean(sizes[kind], 0), size, atol=tolerance)


def test_invalid_values_are_errors():
    expect_error({'classes': []}, 'classes: expected one or more distinct names, got []')
    expect_error(
        {'classes': ['Car', 'Car']}, "expected one or more distinct names, got ['Car', 'Car']"
    )
    expect_error({'classes': ['Car', 'DontCare']}, 'classes: DontCare marks unlabelled regions')
    expect_error({'precision': 'half'}, "precision: 'half' is unknown; known: fp32, bf16, fp16")
    expect_error({'accumulate': 0}, 'accumulate: expected at least 1, got 0')
    expect_error({'eval_every': -1}, 'eval_every: expected at least 0, got -1')
    expect_error({'seed': -1}, 'seed: expected at least 0, got -1')
    expect_error({'optim': {'lr': 0}}, 'optim: lr: expected more than 0, got 0.0')
    expect_error(
        {'train': {'augment': {'flip': 2}}}, 'train.augment: flip: expected 0 to 1, got 2.0'
    )
    expect_error(
        {'optim': {'schedule': 'poly'}}, "optim: schedule: 'poly' is unknown; known: step, cos"
    )
    expect_error({'eval_every': 0, 'patience': 3}, 'patience: counts evaluations')
    expect_error({'metric': '3d'}, "metric: expected CLASS/KIND/POINTS/IOU/DIFFICULTY, got '3d'")
    expect_error({'metric': 'mean/3d/AP41/strict/easy'}, "metric: 'AP41' of")
    expect_error({'classes': ['Car'], 'metric': 'Van/3d/AP40/strict/easy'}, "'Van' of")
    expect_error({'classes': ['Van']}, 'known: none for Van')


def test_a_metric_selects_its_value_from_the_ap_table():
    numbers = iter(range(1000))
    ap = ApResult(
        {
            name: ClassAp(
                {
                    (kind, points, criterion): tuple(next(numbers) for _ in DIFFICULTY_NAMES)
                    for kind in KINDS
                    for points in POINTS
                    for criterion in MIN_IOU
                }
            )
            for name in CLASSES
        }
    )
    results = MetricResults({'kitti': ap})
    classes = ('Cyclist', 'Car', 'Van')
    one = parse_selection('Car/bev/AP11/loose/hard', classes)
    assert one.value(results) == ap['Car'].by_difficulty('bev', 'AP11', 'loose')[2]
    assert parse_selection('kitti/Car/bev/AP11/loose/hard', classes) == one
    mean = parse_selection('mean/3d/AP40/strict/moderate', classes)
    values = [ap.to_json()[name]['3d']['AP40']['strict'][1] for name in ('Car', 'Cyclist')]
    assert mean.value(results) == sum(values) / 2


def test_overrides_replace_values_of_the_file(tmp_path):
    path = tmp_path / 'a.yaml'
    path.write_text('epochs: 3\n')
    built = stages.load_stages(path, ('epochs=7', 'optim.lr=0.5', 'detector.options.neck=light'))[
        ''
    ]
    assert (built.epochs, built.optim.lr, built.detector.options.neck) == (7, 0.5, 'light')
    with pytest.raises(ConfigError, match="'epochs': expected key=value"):
        stages.load_stages(path, ('epochs',))
    with pytest.raises(ConfigError, match='epochs is not a group'):
        stages.load_stages(path, ('epochs.x=1',))
    with pytest.raises(ConfigError, match=r"'optim.betas=\[0.9': the value is not YAML \(while"):
        stages.load_stages(path, ('optim.betas=[0.9',))


def test_an_override_does_not_change_another_key_with_the_same_anchor(tmp_path):
    path = tmp_path / 'a.yaml'
    path.write_text('train: &frames {augment: {flip: 0.25}}\nval: *frames\n')
    built = stages.load_stages(path, ('val.split=val.txt', 'val.augment.flip=0'))['']
    assert (built.train.split, built.train.augment.flip) == ('', 0.25)
    assert (built.val.split, built.val.augment.flip) == ('val.txt', 0.0)


@pytest.mark.parametrize(
    ('text', 'message'),
    [(None, 'no such file'), ('a: [', 'not YAML'), ('- 1', 'expected keys and values, got list')],
)
def test_errors_name_the_unusable_file(tmp_path, text, message):
    path = tmp_path / 'a.yaml'
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=rf'a.yaml: .*{message}'):
        stages.load_stages(path)


def test_environment_variables_fill_paths(monkeypatch):
    monkeypatch.setenv('HERE', '/data')
    assert config_builder.expand_env('${HERE}/a ${NOT_SET_ANYWHERE:-b}') == '/data/a b'
    with pytest.raises(ConfigError, match='NOT_SET_ANYWHERE is not set'):
        config_builder.expand_env('${NOT_SET_ANYWHERE}')


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        ({'seed': 99999999999999999999}, 'seed: expected at most 9223372036854775807, got 9999'),
        ({'train': {'max_objects': -1}}, 'train: max_objects: expected at least 1, got -1'),
        ({'train': {'max_objects': 0}}, 'train: max_objects: expected at least 1, got 0'),
        ({'train': {'max_depth_m': 0}}, 'train: max_depth_m: expected more than 0'),
        ({'train': {'min_depth_m': 30, 'max_depth_m': 20}}, 'than min_depth_m (30.0), got 20.0'),
        ({'train': {'max_truncated': 50}}, 'max_truncated: expected a fraction, 0 to 1, got 50'),
        ({'train': {'min_height_px': -25}}, 'min_height_px: expected at least 0, got -25'),
        ({'val': {'max_occluded': -1}}, 'val: max_occluded: expected at least 0, got -1'),
        ({'optim': {'lr': float('inf')}}, 'optim.lr: expected a finite number, got inf'),
        ({'optim': {'lr': 10**400}}, 'optim.lr: expected a finite number, got inf'),
        (
            {'optim': {'drops': [float('nan')]}},
            'optim.drops[0]: expected a finite number',
        ),
        ({'weights': {'det/heatmap': float('nan')}}, 'weights.det/heatmap: expected a finite'),
        ({'train': {'augment': {'shift': float('inf')}}}, 'train.augment.shift: expected a fin'),
        ({'classes': ['dontcare']}, 'classes: DontCare marks unlabelled regions'),
    ],
)
def test_numbers_that_cannot_train_are_refused(data, message):
    expect_error(data, message)


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / 'run.yaml'
    path.write_text('epochs: 3\noptim: {lr: 0.1}\nepochs: 140\n')
    message = f'{path}: line 3: epochs is given twice, first in line 1; keep one'
    with pytest.raises(ConfigError, match=re.escape(message)):
        stages.load_stages(path)
    path.write_text('optim:\n  lr: 0.1\n  lr: 0.2\n')
    with pytest.raises(ConfigError, match='line 3: lr is given twice, first in line 2'):
        stages.load_stages(path)
    path.write_text('epochs: 3\n')
    with pytest.raises(ConfigError, match='lr is given twice'):
        stages.load_stages(path, ('optim={lr: 0.1, lr: 0.2}',))


def test_merged_keys_may_be_replaced(tmp_path):
    path = tmp_path / 'run.yaml'
    path.write_text(
        '\ufefftrain: &frames\n  max_depth_m: 50\nval:\n  <<: *frames\n  max_depth_m: 60\n',
        'utf-8',
    )
    (run,) = stages.load_stages(path).values()
    assert (run.train.max_depth_m, run.val.max_depth_m) == (50.0, 60.0)


@pytest.mark.parametrize('text', ['a: 2001-99-99', '[' * 3000, '\x00', 'a: [', '*none'])
def test_a_file_that_is_no_yaml_is_one_line(tmp_path, text):
    path = tmp_path / 'run.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=f'{re.escape(str(path))}: not YAML') as error:
        stages.load_stages(path)
    assert '\n' not in str(error.value)


def test_val_protocol_is_ours_or_published():
    """'ours' is the default under either spelling, so that older checkpoints compare equal."""
    plain, ours, published = (
        config.build_train_config({'val': {'protocol': each}} if each else {})
        for each in ('', 'ours', 'published')
    )
    assert plain == ours
    assert (ours.val.protocol, published.val.protocol) == ('', 'published')
    with pytest.raises(ConfigError, match=r"val\.protocol: 'paper' is unknown; known: ours, pub"):
        config.build_train_config({'val': {'protocol': 'paper'}})


def test_the_metric_reads_the_protocol_that_it_is_given():
    def results(value, **others):
        ap = ClassAp({('3d', 'AP40', 'strict'): (0.0, value, 0.0)})
        return MetricResults({'kitti': ApResult({'Car': ap})}, **others)

    both = results(28.5, protocol='ours', published=results(23.2, protocol='published'))
    text = 'Car/3d/AP40/strict/moderate'
    assert parse_selection(text, ('Car',)).value(both) == 28.5
    assert parse_selection(text, ('Car',), 'published').value(both) == 23.2
    with pytest.raises(ValueError, match='these results have no published protocol'):
        parse_selection(text, ('Car',), 'published').value(results(1.0))


def test_kitti_plans_that_quote_a_paper_select_by_its_protocol():
    plans = sorted((Path(__file__).parents[3] / 'config/train').glob('mono*_kitti.yaml'))
    assert len(plans) == 6
    for path in plans:
        assert 'ublished result' in path.read_text()
        for each in stages.load_stages(path).values():
            assert each.val.protocol == 'published'
