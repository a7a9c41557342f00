"""A runtime for another suffix, registered with one line: the `stl` commands run its files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_runtime
from kitti_scenes import HEIGHT, P2, WIDTH, make_scenes

from stl_core.cli import main
from stl_core.data.sources import kitti
from stl_core.geometry import project_objects, warp_box, warp_P
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.predictor import load_predictor
from stl_core.inference.runtimes import RUNTIMES
from stl_core.inference.runtimes.interface import ModelFileError
from stl_core.preprocessing import InputSpec, letterbox_affine
from stl_core.types import ImageObjects

ROOT = Path(__file__).resolve().parents[4]
SPEC = ModelSpec(kitti.CLASSES, InputSpec(160, 64), 'toy', provenance={'made_by': 'a test'})


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(RUNTIMES, '.toy', toy_runtime.RUNTIME)


@pytest.fixture
def scenes(tmp_path):
    return make_scenes(tmp_path / 'training', frames=1)


@pytest.fixture
def model(tmp_path, scenes):
    """Write a toy that returns the labels of the only frame."""
    truth = kitti.read_labels(scenes / 'label_2/000000.txt').to_objects(SPEC.classes)
    A = letterbox_affine(WIDTH, HEIGHT, SPEC.input)
    projected = project_objects(truth, warp_P(P2, A))
    objects = ImageObjects(**{**vars(projected), 'box_px': warp_box(truth.box_px, A)})
    return toy_runtime.write_toy(tmp_path / 'model.toy', SPEC, objects)


def run(*arguments):
    main.main([str(each) for each in arguments])


def assert_are_the_labels(path, scenes):
    detections, labels = (
        kitti.read_results(path),
        kitti.read_labels(scenes / 'label_2' / path.name),
    )
    assert detections.name.tolist() == labels.name.tolist() == ['Car']
    for name in ('center_m', 'size_hwl_m', 'rotation_y', 'box_px'):
        np.testing.assert_allclose(getattr(detections, name), getattr(labels, name), atol=0.02)


def test_stl_evaluate(model, scenes, tmp_path, capsys):
    run(
        'evaluate', model, scenes, '--results', tmp_path / 'results', '--json', tmp_path / 'a.json'
    )
    assert 'Car' in capsys.readouterr().out
    assert_are_the_labels(tmp_path / 'results/000000.txt', scenes)
    metrics = json.loads((tmp_path / 'a.json').read_text())
    assert metrics['ap']['Car']['3d']['AP11']['strict'][-1] > 0


def test_stl_predict(model, scenes, tmp_path):
    run('predict', model, scenes, '--out', tmp_path / 'out')
    assert_are_the_labels(tmp_path / 'out/results/000000.txt', scenes)
    assert (tmp_path / 'out/pictures/000000.png').exists()


def test_stl_inspect(model, capsys):
    run('inspect', model)
    assert json.loads(capsys.readouterr().out) == json.loads(model.read_text())['spec']


def test_stl_export_names_the_formats_that_it_can_halve(model, tmp_path, capsys):
    with pytest.raises(SystemExit) as exited:
        run('export', model, tmp_path / 'half.toy')
    assert exited.value.code == 2
    assert 'model.toy: export needs a file ending in .safetensors' in capsys.readouterr().err


def test_a_broken_toy_is_an_error_of_one_line(model, capsys):
    model.write_text('{}')
    with pytest.raises(SystemExit) as exited:
        run('inspect', model)
    assert exited.value.code == 2
    assert f"{model}: not a toy ('spec')" in capsys.readouterr().err


def test_an_unknown_suffix_is_refused_with_the_known_ones_before_the_file_is_read(tmp_path):
    message = r'x.onnx: expected a file ending in \.safetensors, \.toy'
    with pytest.raises(ModelFileError, match=message):
        load_predictor(tmp_path / 'x.onnx')
    with pytest.raises(ModelFileError, match=r'x\.toy: not a toy'):
        load_predictor(tmp_path / 'x.toy')


def test_the_device_is_that_of_the_runner(model):
    assert load_predictor(model).device == toy_runtime.DEVICE


def test_a_runtime_without_torch_needs_no_torch(model):
    program = f"""
import sys
import numpy as np
import toy_runtime
from stl_core.inference.predictor import load_predictor
from stl_core.inference.runtimes import RUNTIMES
RUNTIMES['.toy'] = toy_runtime.RUNTIME
(objects,) = load_predictor({str(model)!r})([np.zeros((96, 320, 3), np.uint8)], [np.eye(3, 4)])
print(len(objects), 'torch' in sys.modules)
"""
    folders = f'{ROOT}:{ROOT}/test/support'
    done = subprocess.run(
        [sys.executable, '-c', program],
        env={'PYTHONPATH': folders},
        capture_output=True,
        text=True,
    )
    assert done.stdout == '1 False\n', done.stderr
