"""nuScenes' devkit as the judge, on the real labels of mini_val."""

import importlib.util
import random
from dataclasses import replace

import numpy as np
import pytest

from stl_core.cli import main
from stl_core.data.sources import nuscenes
from stl_core.evaluation.nuscenes.devkit import Devkit, DevkitError
from stl_core.evaluation.nuscenes.names import ATTRIBUTES, CLASSES
from stl_core.evaluation.nuscenes.result import NuscenesResult
from stl_core.evaluation.nuscenes.results import ResultsError, SampleDetections, build_results

needs_devkit = pytest.mark.skipif(
    importlib.util.find_spec('nuscenes') is None,
    reason='nuscenes-devkit is not installed (pip install --no-deps nuscenes-devkit==1.2.0)',
)


@pytest.fixture(scope='module')
def root(mono3d_data):
    root = mono3d_data / 'extras/nuscenes_mini_val'
    if not root.exists():
        pytest.skip(f'{root} is absent')
    return root


@pytest.fixture(scope='module')
def devkit(root):
    return Devkit(root, 'v1.0-mini')


@pytest.fixture(scope='module')
def truth(root):
    """Return the labels that the benchmark counts, those with points, as detections."""
    source = nuscenes.NuscenesSource(nuscenes.NuscenesFolder(str(root), split='mini_val'))
    samples = [source.read(each) for each in source.ids]
    return [
        SampleDetections(
            each.id,
            each.labels[each.labels.num_points > 0].to_objects(CLASSES, ATTRIBUTES),
            each.global_T_vehicle,
        )
        for each in samples
    ]


def judge(devkit, samples, change=lambda objects: objects):
    changed = [each._replace(objects=change(each.objects)) for each in samples]
    results, counts = build_results(changed, CLASSES, ATTRIBUTES)
    return devkit.evaluate(results, 'mini_val', tuple(counts.notes()))


@needs_devkit
def test_the_devkits_mock_submission_scores_as_published(devkit):
    """Its own random boxes, seeds 42; without chains of annotations, velocity error is 1."""
    from nuscenes.eval.detection.tests.test_evaluate import TestMain

    random.seed(42)
    np.random.seed(42)  # noqa: NPY002  # the devkit draws from it
    submission = TestMain._mock_submission(devkit.database, 'mini_val')
    result = devkit.evaluate(submission, 'mini_val')
    assert result.mean_ap == pytest.approx(0.12997, abs=1e-5)
    assert result.nds == pytest.approx(0.14905, abs=1e-5)
    assert result.samples == 81
    assert NuscenesResult.from_json(result.to_json()).to_json() == result.to_json()


@needs_devkit
def test_labels_as_detections_are_perfect(devkit, truth):
    result = judge(devkit, truth)
    assert result.present_mean_ap == pytest.approx(1.0)
    assert result.mean_ap == pytest.approx(0.7)  # three classes are absent
    assert result.present == (
        *('car', 'truck', 'bus', 'pedestrian', 'motorcycle', 'bicycle', 'traffic_cone'),
    )
    for name in result.present:
        errors = result.by_class[name].tp_errors
        assert errors['trans_err'] < 1e-6
        assert errors['scale_err'] < 1e-6
        if name != 'traffic_cone':  # its heading is not evaluated
            assert errors['orient_err'] < 2e-3  # 0.1 degrees: the vehicle is not quite level
            assert errors['attr_err'] == 0
    assert abs(result.height_error_m) < 1e-6
    assert any('no labels of trailer, construction_vehicle, barrier' in n for n in result.notes)
    assert any('have no velocity' in note for note in result.notes)


@needs_devkit
def test_what_nds_does_not_see_is_said(devkit, truth):
    """N2, N4: half their height too low; width and length swapped, yaw a quarter turn off."""

    def spoil(objects):
        center_m = objects.center_m.copy()
        center_m[:, 2] -= objects.size_hwl_m[:, 0] / 2
        return replace(
            objects,
            center_m=center_m,
            size_hwl_m=objects.size_hwl_m[:, [0, 2, 1]],
            yaw=-objects.yaw - np.pi / 2,
        )

    result = judge(devkit, truth, spoil)
    assert result.present_mean_ap == pytest.approx(1.0)  # AP sees none of it
    assert result.height_error_m < -0.5
    text = ' '.join(result.notes)
    assert 'm below the true ones' in text


@needs_devkit
def test_a_quarter_turn_is_named(devkit, truth):
    result = judge(devkit, truth, lambda objects: replace(objects, yaw=objects.yaw + np.pi / 2))
    assert any('a quarter turn: are width and length swapped' in note for note in result.notes)


@needs_devkit
def test_results_of_other_samples_and_empty_ones(devkit, truth):
    with pytest.raises(ResultsError, match="the devkit refuses these results on 'mini_val'"):
        judge(devkit, truth[:3])
    empty = judge(devkit, truth, lambda objects: objects[:0])
    assert (empty.mean_ap, empty.nds) == (0, 0)
    assert empty.notes[0] == 'nothing was detected in 81 samples'


@needs_devkit
def test_the_command_prints_table_and_json(root, truth, tmp_path, capsys):
    import json

    results, _ = build_results(truth, CLASSES, ATTRIBUTES)
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(results))
    arguments = [str(path), str(root), '--split', 'mini_val', '--json', str(tmp_path / 'out.json')]
    main.main(['nuscenes-eval', *arguments])
    assert 'mAP 0.70000' in capsys.readouterr().out
    assert json.loads((tmp_path / 'out.json').read_text())['mAP_present'] == pytest.approx(1.0)


def test_a_missing_devkit_is_named(root, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'nuscenes.nuscenes', None)
    with pytest.raises(DevkitError, match=r'pip install --no-deps nuscenes-devkit==1\.2\.0'):
        Devkit(root, 'v1.0-mini')
