"""Model files and the Predictor: load, detect, half precision, errors."""

import json
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from kitti_scenes import P2
from safetensors.torch import save_file

from stl_core.geometry import project_objects, warp_box, warp_P
from stl_core.inference import model_file
from stl_core.inference.predictor import Predictor, load_predictor
from stl_core.inference.runtimes.torch_runner import TorchRunner
from stl_core.models import monodle
from stl_core.preprocessing import InputSpec, letterbox_affine
from stl_core.tensors.batch import pad_targets
from stl_core.types import ImageObjects, Objects3D

SPEC = model_file.ModelSpec(
    classes=('Car', 'Pedestrian', 'Cyclist'),
    input=InputSpec(160, 64),
    detector='monodle',
    options={'backbone': 'mobilenetv4_conv_small', 'neck': 'light', 'head_width': 8},
    provenance={'made_by': 'a test'},
)


@pytest.fixture(scope='module')
def model_path(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('model') / 'model.safetensors'
    model_file.save_model(path, model_file.build_detector(SPEC), SPEC)
    return path


def noise(seed, height=96, width=320):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def assert_is_spec(spec):
    assert replace(spec, options={}) == replace(SPEC, options={})
    assert SPEC.options.items() <= spec.options.items()
    # the file holds the defaults, because a later version may have others
    assert spec.options.keys() == {field.name for field in fields(monodle.MonoDLEConfig)}


def test_a_loaded_model_file_predicts_the_same(model_path):
    assert_is_spec(model_file.read_model_spec(model_path))
    loaded = load_predictor(model_path, 'cpu')
    torch.manual_seed(0)
    runner = TorchRunner(model_file.build_detector(SPEC).eval(), SPEC.input, torch.device('cpu'))
    expected = Predictor(runner, SPEC)([noise(0)], [P2])[0]
    objects = loaded([noise(0)], [P2])[0]
    assert len(objects) > 0
    np.testing.assert_array_equal(objects.center_m, expected.center_m)


def test_half_precision_halves_the_file_and_hardly_changes_the_boxes(model_path, tmp_path):
    half = tmp_path / 'half.safetensors'
    model_file.convert_to_half(model_path, half)
    assert_is_spec(model_file.read_model_spec(half))
    assert half.stat().st_size < 0.55 * model_path.stat().st_size
    (one,), (two,) = (load_predictor(path, 'cpu')([noise(0)], [P2]) for path in (model_path, half))
    assert len(one) == len(two)
    np.testing.assert_allclose(two.size_hwl_m.mean(0), one.size_hwl_m.mean(0), rtol=5e-3)
    np.testing.assert_allclose(np.median(two.center_m, 0), np.median(one.center_m, 0), rtol=0.02)


def test_one_batch_can_hold_images_of_different_cameras(model_path):
    predictor = load_predictor(model_path, 'cpu')
    images = [noise(0), noise(1, 200, 300), noise(2, 64, 160)]
    Ps = [P2, P2 * [[2], [2], [1]], P2]
    batched = predictor(images, Ps)
    for image, P, objects in zip(images, Ps, batched, strict=True):
        (single,) = predictor([image], [P])
        np.testing.assert_allclose(objects.center_m, single.center_m, atol=1e-3, rtol=1e-4)


def test_boxes_are_in_pixels_of_the_original_image():
    """A network that outputs the truth on the canvas must yield the truth in the camera frame."""
    truth = Objects3D(
        class_id=[0],
        score=[0.9],
        center_m=[[2.0, 0.5, 15.0]],
        size_hwl_m=[[1.5, 1.6, 4.0]],
        rotation_y=[0.3],
        box_px=[[150.0, 30.0, 210.0, 60.0]],
        depth_sigma_m=[0.5],
    )
    A = letterbox_affine(320, 96, SPEC.input)

    def forward(canvases, P):
        assert canvases.shape == (1, 64, 160, 3)
        np.testing.assert_allclose(P[0], warp_P(P2, A))
        projected = project_objects(truth, P[0])
        return [ImageObjects(**{**vars(projected), 'box_px': warp_box(truth.box_px, A)})]

    (objects,) = Predictor(forward, SPEC)([noise(0)], [P2])
    for name in Objects3D.FIELD_SHAPES:
        np.testing.assert_allclose(getattr(objects, name), getattr(truth, name), atol=1e-9)


def test_detections_below_the_minimum_score_are_dropped(model_path):
    assert len(load_predictor(model_path, 'cpu', min_score=0.999)([noise(0)], [P2])[0]) == 0


def test_empty_input_is_empty_output_and_a_mismatch_is_an_error(model_path):
    predictor = load_predictor(model_path, 'cpu')
    assert predictor([], []) == []
    with pytest.raises(ValueError, match='1 images but 0 projections'):
        predictor([noise(0)], [])
    with pytest.raises(ValueError, match='expected an'):
        predictor([noise(0)[..., 0]], [P2])


def test_errors_name_the_unusable_model_file(tmp_path, model_path):
    def expect_error(path, message):
        with pytest.raises(model_file.ModelFileError, match=message):
            load_predictor(path, 'cpu')

    expect_error(tmp_path / 'a.safetensors', 'a.safetensors: no such file')
    expect_error(tmp_path / 'a.pth', r'a.pth: expected a file ending in \.safetensors')
    broken = tmp_path / 'b.safetensors'
    broken.write_bytes(b'nothing of the kind')
    expect_error(broken, 'b.safetensors: not a readable model file')
    save_file({'x': torch.zeros(1)}, broken)
    expect_error(broken, 'without the header of a model file')
    header = {'classes': ['Car'], 'input': {'width_px': 3}}
    save_file(
        {'x': torch.zeros(1)}, broken, metadata={model_file.METADATA_KEY: json.dumps(header)}
    )
    expect_error(broken, 'invalid header of a model file')

    def write(**changes):
        header = json.dumps(asdict(replace(SPEC, **changes)))
        save_file({'x': torch.zeros(1)}, broken, metadata={model_file.METADATA_KEY: header})

    write(detector='yolo')
    expect_error(broken, "detector 'yolo': unknown; known: monodle")
    write()
    expect_error(broken, 'made by an older version, without .*virtual_focal_px; train or import')
    model_file.save_model(broken, torch.nn.Linear(1, 1), SPEC)
    expect_error(
        broken,
        r"weights do not fit detector 'monodle': backbone\S+ is missing in the file, \(.*\) in the"
        r' detector$',
    )


def test_bf16_changes_activations_little(model_path):
    outputs = []
    for precision in ('fp32', 'bf16'):
        predictor = load_predictor(model_path, 'cpu', precision=precision)
        head = predictor.runner.detector.heads['heatmap']
        head.register_forward_hook(lambda module, inputs, out: outputs.append(out))
        (objects,) = predictor([noise(0)], [P2])
        assert len(objects) > 0
        assert objects.center_m.dtype == np.float64
    full, half = outputs
    assert (full.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert 0 < (half.float() - full).abs().max() < 0.05 * full.abs().max()
    with pytest.raises(
        model_file.ModelFileError, match="precision 'int8': expected fp32, bf16, fp16"
    ):
        load_predictor(model_path, 'cpu', precision='int8')


@pytest.mark.parametrize('name', ['gpu', 'cuda:99'])
def test_unusable_devices_are_errors(model_path, name):
    with pytest.raises(model_file.ModelFileError, match=f'device {name!r}'):
        load_predictor(model_path, name)


def test_padded_targets_keep_the_nearest_objects():
    rows = 5
    objects = ImageObjects(
        class_id=np.arange(rows),
        score=np.ones(rows),
        center_px=np.zeros((rows, 2)),
        depth_m=np.array([50.0, 10, 40, 20, 30]),
        size_hwl_m=np.ones((rows, 3)),
        alpha=np.zeros(rows),
        box_px=np.zeros((rows, 4)),
        depth_log_sigma=np.zeros(rows),
    )
    targets = pad_targets([objects, ImageObjects.empty()], 3)
    assert targets.depth_m[0].tolist() == [10, 20, 30]
    assert targets.class_id[0].tolist() == [1, 3, 4]
    assert targets.valid.tolist() == [[True] * 3, [False] * 3]
