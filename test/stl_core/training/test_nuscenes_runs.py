"""Runs on a nuScenes database, selected by NDS that the devkit computes."""

import importlib.util
import json

import numpy as np
import pytest
from nuscenes_tables import CAMERA_YAW, Database, box
from small_rigs import SMALL

from stl_core.cli import main
from stl_core.data.sources import nuscenes
from stl_core.evaluation import metrics
from stl_core.evaluation.nuscenes.result import NuscenesResult
from stl_core.inference.judged_samples import judge_samples, merge_samples
from stl_core.inference.model_spec import ModelSpec
from stl_core.preprocessing import InputSpec
from stl_core.training import config, trainer
from stl_core.training.resolved_config import resolve_config

CLASSES = ('car', 'pedestrian')
needs_devkit = pytest.mark.skipif(
    importlib.util.find_spec('nuscenes') is None,
    reason='nuscenes-devkit is not installed (pip install --no-deps nuscenes-devkit==1.2.0)',
)


@pytest.fixture
def root(tmp_path):
    cars = [
        box(center_m=(14 * np.cos(yaw), 14 * np.sin(yaw), 0.8), attribute='vehicle.parked')
        for yaw in CAMERA_YAW.values()
    ]
    root = Database(
        tmp_path / 'nuscenes', version='v1.0-own', scene='street', objects=cars
    ).write()
    (root / 'v1.0-own/splits.json').write_text(json.dumps({'street': ['street']}))
    return root


def run_config(root, out, detector, **changes):
    source = {'format': 'nuscenes', 'root': str(root), 'split': 'street'}
    data = {
        'out': str(out),
        'detector': detector,
        'classes': list(CLASSES),
        'input': {'width_px': 96, 'height_px': 64},
        'train': {'sources': [source]},
        'val': {'sources': [source]},
        'metric': 'nuscenes/NDS',
        'epochs': 1,
        'batch_size': 2,
        'workers': 0,
        'eval_every': 1,
        'device': 'cpu',
    }
    return config.build_train_config({**data, **changes})


MEAN_SIZES = [[1.6, 1.9, 4.5], [1.8, 0.6, 0.7]]
DETECTORS = {
    'per camera': {
        'name': 'monodle',
        'options': {
            'backbone': 'mobilenetv4_conv_small',
            'neck': 'light',
            'head_width': 8,
            'mean_size_hwl_m': MEAN_SIZES,
        },
    },
    'multi-view': {'name': 'lift_splat', 'options': {**SMALL, 'depth_supervision': 'objects'}},
}


@needs_devkit
@pytest.mark.parametrize('kind', DETECTORS)
def test_runs_are_selected_by_the_devkits_score(root, tmp_path, kind, one_thread):
    built = run_config(root, tmp_path / 'run', DETECTORS[kind])
    results = trainer.fit(resolve_config(built))
    result = results.by_name['nuscenes']
    assert isinstance(result, NuscenesResult)
    assert result.samples == 2
    assert result.by_class['car'].ground_truth == 12
    stored = json.loads((tmp_path / 'run/metrics.json').read_text())
    assert stored['metrics']['nuscenes']['NDS'] == result.nds
    assert 'nuscenes/NDS' in (tmp_path / 'run/val.csv').read_text()
    out, model = tmp_path / 'results.json', tmp_path / 'run/student.safetensors'
    main.main(['nuscenes-predict', str(model), str(root), str(out), '--split', 'street'])
    main.main(
        ['nuscenes-eval', str(out), str(root), '--split', 'street', '--json', f'{out}.judged']
    )
    judged = json.loads((tmp_path / 'results.json.judged').read_text())
    assert judged['NDS'] == pytest.approx(result.nds, abs=1e-9)


@needs_devkit
def test_labels_of_single_cameras_merge_into_a_perfect_result(root):
    """Each camera detects what it shows; a car that two cameras show counts once."""
    source = nuscenes.NuscenesSource(nuscenes.NuscenesFolder(str(root), split='street'))
    samples = [source.read(each) for each in source.ids]
    found = [image.labels.to_objects(CLASSES) for sample in samples for image in sample.images]
    objects = merge_samples(samples, found)
    assert [len(each) for each in objects] == [6, 6]
    spec = ModelSpec(CLASSES, InputSpec(96, 64), 'monodle')
    result = metrics.METRICS['nuscenes'].evaluate_samples(judge_samples(samples, objects, spec))
    assert result.present_mean_ap == pytest.approx(1.0)
    assert result.by_class['car'].tp_errors['trans_err'] < 1e-6


def test_samples_without_a_split_cannot_be_judged(root):
    source = nuscenes.NuscenesSource(nuscenes.NuscenesFolder(str(root)))
    samples = [source.read(each) for each in source.ids]
    spec = ModelSpec(CLASSES, InputSpec(96, 64), 'monodle')
    objects = merge_samples(
        samples, [image.labels.to_objects(CLASSES) for s in samples for image in s.images]
    )
    assert judge_samples(samples, objects, spec) is None
    with pytest.raises(
        ValueError, match='metric nuscenes: expected frames of one nuScenes source'
    ):
        metrics.evaluate_metrics([], [], CLASSES, ('nuscenes',))


@pytest.mark.parametrize(
    ('metric', 'message'),
    [
        ('nuscenes/nds', "'nds' of nuscenes is unknown; known: NDS, mAP, mAP_present, AP/car"),
        ('nuscenes/AP/tram', "'AP/tram' of nuscenes is unknown"),
    ],
)
def test_unknown_selections_are_refused(metric, message):
    with pytest.raises(ValueError, match=message):
        metrics.parse_selection(metric, CLASSES)


def test_the_published_protocol_has_no_samples():
    with pytest.raises(ValueError, match="metric nuscenes: has the protocol 'ours' only"):
        metrics.parse_selection('nuscenes/NDS', CLASSES, 'published')
    selected = metrics.parse_selection('nuscenes/AP/car', CLASSES)
    assert selected.name == 'nuscenes'
