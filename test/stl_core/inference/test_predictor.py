import json
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from kitti_scenes import P2
from safetensors.torch import save_file

from stl_core.geometry import project_objects, warp_box, warp_P
from stl_core.inference import model_file
from stl_core.inference.predictor import Predictor, TorchRunner, load_predictor
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
def student(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('student') / 'student.safetensors'
    model_file.save_model(path, model_file.build_detector(SPEC), SPEC)
    return path


def noise(seed, height=96, width=320):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def assert_is_spec(found):
    assert replace(found, options={}) == replace(SPEC, options={})
    assert SPEC.options.items() <= found.options.items()
    # the defaults are in the file, so that a later version cannot read it with others
    assert found.options.keys() == {field.name for field in fields(monodle.MonoDLEConfig)}


def test_a_student_file_reads_back_whole(student):
    assert_is_spec(model_file.read_model_spec(student))
    loaded = load_predictor(student, 'cpu')
    torch.manual_seed(0)
    fresh = TorchRunner(model_file.build_detector(SPEC).eval(), SPEC.input, torch.device('cpu'))
    expected = Predictor(fresh, SPEC)([noise(0)], [P2])[0]
    found = loaded([noise(0)], [P2])[0]
    assert len(found) > 0
    np.testing.assert_array_equal(found.center_m, expected.center_m)


def test_half_precision_halves_the_file_and_hardly_moves_the_boxes(student, tmp_path):
    small = tmp_path / 'half.safetensors'
    model_file.convert_to_half(student, small)
    assert_is_spec(model_file.read_model_spec(small))
    assert small.stat().st_size < 0.55 * student.stat().st_size
    (one,), (two,) = (load_predictor(path, 'cpu')([noise(0)], [P2]) for path in (student, small))
    assert len(one) == len(two)
    np.testing.assert_allclose(two.size_hwl_m.mean(0), one.size_hwl_m.mean(0), rtol=5e-3)
    np.testing.assert_allclose(np.median(two.center_m, 0), np.median(one.center_m, 0), rtol=0.02)


def test_images_of_different_cameras_go_in_one_batch(student):
    predictor = load_predictor(student, 'cpu')
    images = [noise(0), noise(1, 200, 300), noise(2, 64, 160)]
    Ps = [P2, P2 * [[2], [2], [1]], P2]
    together = predictor(images, Ps)
    for image, P, objects in zip(images, Ps, together, strict=True):
        (alone,) = predictor([image], [P])
        np.testing.assert_allclose(objects.center_m, alone.center_m, atol=1e-3, rtol=1e-4)


def test_objects_come_back_in_the_images_own_pixels():
    """A run that answers with the truth on the canvas must give the truth in the world."""
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

    def run(canvases, P):
        assert canvases.shape == (1, 64, 160, 3)
        np.testing.assert_allclose(P[0], warp_P(P2, A))
        seen = project_objects(truth, P[0])
        return [ImageObjects(**{**vars(seen), 'box_px': warp_box(truth.box_px, A)})]

    (found,) = Predictor(run, SPEC)([noise(0)], [P2])
    for name in Objects3D.FIELD_SHAPES:
        np.testing.assert_allclose(getattr(found, name), getattr(truth, name), atol=1e-9)


def test_unlikely_objects_are_not_passed_on(student):
    assert len(load_predictor(student, 'cpu', min_score=0.999)([noise(0)], [P2])[0]) == 0


def test_no_images_no_answers_and_mismatch_is_told(student):
    predictor = load_predictor(student, 'cpu')
    assert predictor([], []) == []
    with pytest.raises(ValueError, match='1 images but 0 projections'):
        predictor([noise(0)], [])
    with pytest.raises(ValueError, match='expected an'):
        predictor([noise(0)[..., 0]], [P2])


def test_unusable_students_are_named(tmp_path, student):
    def refuse(path, message):
        with pytest.raises(model_file.ModelFileError, match=message):
            load_predictor(path, 'cpu')

    refuse(tmp_path / 'a.safetensors', 'a.safetensors: no such file')
    refuse(tmp_path / 'a.pth', r'a.pth: expected a file ending in \.safetensors')
    broken = tmp_path / 'b.safetensors'
    broken.write_bytes(b'nothing of the kind')
    refuse(broken, 'b.safetensors: not a readable student')
    save_file({'x': torch.zeros(1)}, broken)
    refuse(broken, 'without the header of a student')
    header = {'classes': ['Car'], 'input': {'width_px': 3}}
    save_file(
        {'x': torch.zeros(1)}, broken, metadata={model_file.METADATA_KEY: json.dumps(header)}
    )
    refuse(broken, 'header of this student is not understood')

    def write(**changes):
        told = json.dumps(asdict(replace(SPEC, **changes)))
        save_file({'x': torch.zeros(1)}, broken, metadata={model_file.METADATA_KEY: told})

    write(detector='yolo')
    refuse(broken, "detector 'yolo': unknown; known: monodle")
    write()
    refuse(broken, 'made by an older version, without .*virtual_focal_px; train or import')
    model_file.save_model(broken, torch.nn.Linear(1, 1), SPEC)
    refuse(
        broken,
        r"weights do not fit detector 'monodle': backbone\S+ is missing in the file, \(.*\) in the"
        r' detector$',
    )


def test_half_precision_computes_in_half_and_nearly_the_same(student):
    seen = []
    for precision in ('fp32', 'bf16'):
        predictor = load_predictor(student, 'cpu', precision=precision)
        head = predictor.forward_fn.detector.heads['heatmap']
        head.register_forward_hook(lambda module, inputs, out: seen.append(out))
        (objects,) = predictor([noise(0)], [P2])
        assert len(objects) > 0
        assert objects.center_m.dtype == np.float64
    whole, half = seen
    assert (whole.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert 0 < (half.float() - whole).abs().max() < 0.05 * whole.abs().max()
    with pytest.raises(
        model_file.ModelFileError, match="precision 'int8': expected fp32, bf16, fp16"
    ):
        load_predictor(student, 'cpu', precision='int8')


@pytest.mark.parametrize('name', ['gpu', 'cuda:99'])
def test_unusable_devices_are_told(student, name):
    with pytest.raises(model_file.ModelFileError, match=f'device {name!r}'):
        load_predictor(student, name)


def test_more_objects_than_slots_keep_the_nearest():
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
