"""Metrics other than KITTI's: a toy metric runs through the public commands."""

import csv
import json
import re

import pytest
import toy_metric
from kitti_scenes import make_scenes

from stl_core.cli import main
from stl_core.evaluation.metric import MetricResults
from stl_core.evaluation.metrics import METRICS, parse_selection, results_from_json
from stl_core.training import validation

pytestmark = pytest.mark.usefixtures('one_thread')

SMALL = (
    'detector.options={backbone: mobilenetv4_conv_small, neck: light, head_width: 8}',
    'input={width_px: 160, height_px: 64}',
    'epochs=2',
    'batch_size=2',
    'workers=0',
    'device=cpu',
)


@pytest.fixture(scope='module', autouse=True)
def registered():
    METRICS['toy'] = toy_metric.METRIC
    yield
    del METRICS['toy']


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Train on four frames; the number of detections per frame selects the best model."""
    root = make_scenes(tmp_path_factory.mktemp('world') / 'training', frames=4)
    folders = ', '.join(f'{name}: {root / name}' for name in ('image_2', 'calib', 'label_2'))
    path = root.parent / 'config.yaml'
    path.write_text(
        f'metric: toy/density\neval_every: 1\n'
        f'train: &frames\n  sources: [{{{folders}}}]\nval: *frames\n'
    )
    return root.parent


def train(world, capsys, *options):
    """Run `stl train`, which resumes or skips a finished run; return what it prints."""
    main.main(['train', str(world / 'config.yaml'), *SMALL, f'out={world}/run', *options])
    return capsys.readouterr().out


def evaluate(world, *options):
    argv = ['evaluate', f'{world}/run/student.safetensors', f'{world}/training', *options]
    main.main([str(each) for each in argv])


def test_a_run_selects_and_logs_by_the_metric_that_it_names(world, capsys):
    printed = train(world, capsys)
    assert '\nmetric toy\nclass       recall\nCar  ' in printed
    rows = list(csv.DictReader((world / 'run/val.csv').open()))
    assert list(rows[0])[:2] == ['epoch', 'metric']
    columns = list(rows[0])[2:]
    ours, published = columns[: len(columns) // 2], columns[len(columns) // 2 :]
    assert ours[-2:] == ['toy/recall', 'toy/density']
    assert 'Cyclist/aos' in ours
    assert published == [f'published/{name}' for name in ours]
    assert all(row['metric'] == row['toy/density'] for row in rows)
    data = json.loads((world / 'run/metrics.json').read_text())
    assert data.keys() == {'Car', 'Pedestrian', 'Cyclist', 'metrics', 'published', 'counts'}
    assert data['published'].keys() == data.keys() - {'published'}
    assert f'{data["metrics"]["toy"]["detections_per_frame"]:.6g}' == rows[-1]['toy/density']
    results = results_from_json(data)
    assert results.to_json() == data
    names = 'published/Car 1, published/Pedestrian 1, published/Cyclist 1'
    summary = (
        '3D AP40 moderate: Car 1, Pedestrian 1, Cyclist 1; toy/recall 1, toy/density 1; ' + names
    )
    assert re.sub(r'\d+\.\d\d', '1', validation.format_summary(results)) == summary
    ap_only = validation.format_summary(MetricResults({'kitti': results.ap}))
    assert validation.format_summary(results).startswith(ap_only + '; ')
    assert ';' not in ap_only
    assert printed.endswith(train(world, capsys))  # a finished run is read back


def test_evaluate_shows_a_metric_only_when_it_is_asked_for(world, tmp_path, capsys):
    train(world, capsys)
    evaluate(world, '--json', tmp_path / 'without.json', '--report', tmp_path / 'report')
    assert 'toy' not in capsys.readouterr().out
    without = json.loads((tmp_path / 'without.json').read_text())
    assert without.keys() == {'ap', 'best_threshold', 'published', 'counts'}
    assert not list((tmp_path / 'report').glob('metric_*'))
    options = ('--report', tmp_path / 'report', '--json', tmp_path / 'with.json')
    evaluate(world, '--metric', 'toy', *options)
    assert '\nmetric toy\nclass       recall\nCar  ' in capsys.readouterr().out
    data = json.loads((tmp_path / 'with.json').read_text())
    trained = json.loads((world / 'run/metrics.json').read_text())
    published = {**without['published'], 'metrics': trained['published']['metrics']}
    assert data == {**without, 'metrics': trained['metrics'], 'published': published}
    table = list(csv.DictReader((tmp_path / 'report/metric_toy.csv').open()))
    assert [row['class'] for row in table] == ['Car', 'Pedestrian', 'Cyclist']
    figures = json.loads((tmp_path / 'report/figures.json').read_text())
    assert figures['metrics'] == data['metrics']
    evaluate(world, '--report', tmp_path / 'report')
    assert not list((tmp_path / 'report').glob('metric_*'))


def test_errors_name_the_unknown_metric_or_expression(world, tmp_path, capsys):
    with pytest.raises(SystemExit) as exited:
        evaluate(world, '--metric', 'nothing')
    assert exited.value.code == 2
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train(world, capsys, f'out={tmp_path}', 'metric=toy/speed')
    assert "'speed' of toy is unknown; known: recall, density" in capsys.readouterr().err
    names = '; or NAME/EXPRESSION with NAME of kitti, nuscenes, toy'
    message = "metric: expected CLASS/KIND/POINTS/IOU/DIFFICULTY, got 'nothing/recall'" + names
    with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
        parse_selection('nothing/recall', ('Car',))
    message = "metric: 'a' of 'a/b/c/d/e' is unknown; known: mean, Car" + names
    with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
        parse_selection('a/b/c/d/e', ('Car',))
    for text in ('mean/3d/AP41/strict/easy', 'Car/3d'):
        with pytest.raises(ValueError, match=text) as raised:
            parse_selection(text, ('Car',))
        assert 'NAME' not in str(raised.value)


def test_a_study_has_a_column_for_each_number_of_the_metric(world, tmp_path, capsys):
    config = (world / 'config.yaml').read_text()
    small = '\n'.join(each.replace('=', ': ', 1) for each in SMALL if '.' not in each)
    plan = f'{config}{small}\nepochs: 1\ndetector: {{options: {SMALL[0].partition("=")[2]}}}\n'
    plan = plan.replace('epochs: 2\n', '').replace('metric: toy/density\n', '')
    stages = (
        'stages:\n  before:\n    out: {0}/before\n  chosen:\n    metric: toy/recall\n'
        '    start: {0}/before/student.safetensors\n'
    )
    (tmp_path / 'plan.yaml').write_text(plan + stages.format(tmp_path))
    study = {
        'plan': f'{tmp_path}/plan.yaml',
        'stage': 'chosen',
        'methods': {'plain': {}},
        'seeds': [1],
        'out': f'{tmp_path}/out',
        'table': f'{tmp_path}/table.csv',
    }
    (tmp_path / 'study.yaml').write_text(json.dumps(study))
    main.main(['study', f'{tmp_path}/study.yaml'])
    assert '| plain | 1 |' in capsys.readouterr().out
    before, chosen = csv.DictReader((tmp_path / 'table.csv').open())
    columns = ['toy/recall', 'toy/density', 'published/toy/recall', 'published/toy/density']
    assert [name for name in chosen if 'toy' in name] == columns
    assert float(chosen['toy/density']) > 0
    assert (before['toy/recall'], before['toy/density']) == ('', '')
    main.main(['study', f'{tmp_path}/study.yaml'])  # the table is read back
