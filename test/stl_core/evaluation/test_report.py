"""The report folder of stl evaluate --report and stl kitti-ap --report."""

import csv
import json

import cv2
import numpy as np
import pytest
from street_labels import P2, farther, scored, street

from stl_core.cli import main
from stl_core.data.sources import kitti
from stl_core.evaluation import report
from stl_core.evaluation.average_precision import evaluate_detections
from stl_core.types import Labels


def reject_constant(text):
    raise AssertionError(f'{text} is not JSON')


def read_folder(folder):
    """Return figures and tables; check that every picture is readable and not blank."""
    for path in folder.glob('*.png'):
        image = cv2.imread(str(path))
        assert min(image.shape[:2]) > 200
        assert image.std() > 10
    figures = json.loads((folder / 'figures.json').read_text(), parse_constant=reject_constant)
    tables = {}
    for path in folder.glob('*.csv'):
        with path.open(newline='') as file:
            tables[path.stem] = list(csv.DictReader(file))
    return figures, tables


def ap_json(labels, detections):
    return evaluate_detections(labels, detections).to_json()


def file_names(folder):
    return {path.name for path in folder.iterdir()}


TABLES_AND_CHARTS = {
    f'{name}{suffix}' for name in report.TABLE_NAMES for suffix in ('.csv', '.png')
}
SIGMA_FILES = {'sigma_coverage.csv', 'sigma_coverage.png'}


@pytest.fixture(scope='module')
def cars():
    """Labels, detections that stand 6 % too far, and the sigmas that fit."""
    rng = np.random.default_rng(0)
    labels = street(rng, 12)
    detections = [farther(each, 1.06) for each in scored(rng, labels)]
    sigmas_m = [np.sqrt(2) * 0.06 * each.center_m[:, 2] for each in labels]
    return labels, detections, sigmas_m


def test_the_folder_holds_all_results(cars, tmp_path):
    labels, detections, sigmas_m = cars
    result = report.analyse_detections(labels, detections, [P2] * 12, sigmas_m)
    report.write_report(result, tmp_path)
    assert file_names(tmp_path) == TABLES_AND_CHARTS | {'figures.json'}
    figures, tables = read_folder(tmp_path)
    assert figures['oracle']['as detected'] == ap_json(labels, detections)
    assert figures['oracle']['depth'] == ap_json(labels, scored(np.random.default_rng(9), labels))
    assert figures['notes'] == [
        'Pedestrian: nothing was detected',
        'Cyclist: nothing was detected',
    ]
    overall = figures['depth_error']['Car'][-1]
    assert (overall['count'], overall['to_m']) == (48, None)
    assert overall['relative'] == pytest.approx(0.06)
    assert figures['sigma']['Car']['count'] == 48
    assert figures['sigma']['Car']['fitting_factor'] == pytest.approx(1)
    assert len(tables['oracle']) == 7 * 3 * 4 * 2 * 2
    assert {row['part'] for row in tables['oracle']} == set(figures['oracle'])
    assert [row['count'] for row in tables['depth_error']][-1] == '48'
    assert tables['depth_error'][-1]['to_m'] == ''
    assert {row['difficulty'] for row in tables['precision_recall']} == {
        'easy',
        'moderate',
        'hard',
    }
    assert len(tables['score_reliability']) == 2 * 10
    assert float(tables['sigma_coverage'][0]['expected']) == 0.01


def test_missing_parts_are_left_out_and_noted(cars, tmp_path):
    labels, detections, sigmas_m = cars
    no_detections = [Labels.empty()] * len(labels)
    (tmp_path / 'sigma_coverage.png').write_bytes(b'of an earlier report')
    (tmp_path / 'mine.txt').write_text('not ours')
    result = report.analyse_detections(labels, no_detections, None, [np.zeros(0)] * len(labels))
    report.write_report(result, tmp_path)
    assert file_names(tmp_path) == {'mine.txt', 'oracle.csv', 'figures.json'}
    assert 'Car: nothing was detected' in result.notes
    moved = [farther(each, 1.0) for each in detections]
    no_labels = [each[:0] for each in labels]
    result = report.analyse_detections(no_labels, moved, None, sigmas_m)
    assert not result.sigma_coverage
    assert report.NO_MATCH in result.notes
    assert result.depth_errors['Car'][-1].count == 0
    report.write_report(result, tmp_path)
    assert file_names(tmp_path) == (TABLES_AND_CHARTS - SIGMA_FILES - {'precision_recall.csv'}) | {
        'mine.txt',
        'figures.json',
    }
    read_folder(tmp_path)


def write_labels(folder, frames):
    folder.mkdir()
    for number, labels in enumerate(frames):
        (folder / f'{number:06d}.txt').write_text(kitti.format_results(labels))


def test_kitti_ap_reports_with_and_without_calibration(cars, tmp_path, capsys):
    labels, detections, _ = cars
    write_labels(tmp_path / 'label_2', labels)
    write_labels(tmp_path / 'results', detections)
    numbers = ' '.join(f'{x:.6f}' for x in P2.ravel())
    (tmp_path / 'calib').mkdir()
    for number in range(len(labels)):
        (tmp_path / f'calib/{number:06d}.txt').write_text(f'P2: {numbers}\n')
    argv = ['kitti-ap', str(tmp_path / 'label_2'), str(tmp_path / 'results'), '--report']
    out = tmp_path / 'report'
    main.main([*argv, str(out)])
    printed = capsys.readouterr().out
    assert 'report: no calibration was given' in printed
    assert 'sigma_coverage is left out' in printed
    assert file_names(out) == (TABLES_AND_CHARTS - SIGMA_FILES) | {'figures.json'}
    main.main([*argv, str(out), '--calib', str(tmp_path / 'calib')])
    assert 'calibration' not in capsys.readouterr().out
    figures, _ = read_folder(out)
    assert figures['oracle']['depth']['Car']['3d']['AP40']['strict'][1] > 95


def test_one_calib_file_applies_to_all_frames_and_a_missing_one_is_reported(
    cars, tmp_path, capsys
):
    write_labels(tmp_path / 'label_2', cars[0])
    write_labels(tmp_path / 'results', [Labels.empty()] * len(cars[0]))
    (tmp_path / 'calib.txt').write_text(f'P2: {" ".join(str(x) for x in P2.ravel())}\n')
    argv = ['kitti-ap', str(tmp_path / 'label_2'), str(tmp_path / 'results')]
    argv += ['--report', str(tmp_path / 'report'), '--calib']
    main.main([*argv, str(tmp_path / 'calib.txt')])
    assert 'calibration' not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main.main([*argv, str(tmp_path / 'none')])
    assert 'none/000000.txt: no such file' in capsys.readouterr().err


@pytest.mark.parametrize('detections', ['pointgnn_car', 'synthetic_3class'])
def test_real_detections_are_reported(mono3d_data, tmp_path, capsys, detections):
    folder = mono3d_data / 'extras/eval_val300'
    if not folder.is_dir():
        pytest.skip(f'{folder} is absent')
    argv = [str(folder / 'label_2'), str(folder / detections / 'data')]
    main.main(['kitti-ap', *argv, '--report', str(tmp_path)])
    figures, tables = read_folder(tmp_path)
    assert file_names(tmp_path) == (TABLES_AND_CHARTS - SIGMA_FILES) | {'figures.json'}
    expected = json.loads((folder / 'expected_official_cpp.json').read_text())[detections]
    ap = figures['oracle']['as detected']['Car']['3d']['AP40']['strict']
    assert ap == pytest.approx(expected['AP40']['car_detection_3d'], abs=1e-3)
    errors = figures['depth_error']['Car'][-1]
    assert errors['count'] > 900
    assert errors['mean_abs_m'] < 0.5
    assert errors['within_5_percent'] > 0.95
    calibration = figures['score_calibration_error']['Car']['strict']
    if detections == 'pointgnn_car':
        assert calibration is None
        assert 'Car: scores leave 0 to 1' in capsys.readouterr().out
    else:
        assert 0 < calibration < 0.3
        assert {row['class'] for row in tables['depth_error']} == {'Car', 'Pedestrian', 'Cyclist'}
