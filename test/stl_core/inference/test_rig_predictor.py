"""The predictor of several cameras: calibrations, missing cameras, given depth, files."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from small_rigs import SMALL, small_lift_splat
from toy_rig_source import NAMES, ToyRigConfig, ToyRigSource

from stl_core.data.frame_source import DataError
from stl_core.data.given_depth import ABSENT, OTHER
from stl_core.data.rigs.sample import camera_poses
from stl_core.inference.model_file import save_model
from stl_core.inference.model_spec import ModelSpec
from stl_core.inference.nms import vehicle_nms
from stl_core.inference.rig_predictor import RigPredictor, RigView, load_rig_predictor
from stl_core.inference.rig_samples import predict_samples, project_to_image
from stl_core.inference.runtimes.interface import ModelFileError
from stl_core.inference.runtimes.torch_rig_runner import KEPT_CALIBRATIONS, TorchRigRunner
from stl_core.preprocessing import InputSpec
from stl_core.types import Objects3D
from stl_core.vehicle_types import VehicleObjects

INPUT = InputSpec(96, 64)


def predictor(given='', score=0.0, **options):
    spec = dataclasses.replace(INPUT, given_depth=given)
    model = small_lift_splat(given_depth=bool(given), **options).eval()
    header = ModelSpec(NAMES, spec, 'lift_splat', SMALL, multi_view=True)
    runner = TorchRigRunner(model, spec, torch.device('cpu'))
    return RigPredictor(runner, header, min_score=score)


def toy_views(number=0, given=None, **options):
    sample = ToyRigSource(ToyRigConfig(**options)).read(f's{number}')
    poses = camera_poses(sample)
    return [
        RigView(image.pixels.read(), image.P, pose, given)
        for image, pose in zip(sample.images, poses, strict=True)
    ]


def assert_equal_objects(one, other):
    for name in VehicleObjects.FIELD_SHAPES:
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True), name


def rotation_matrix(quaternion):
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def read_calibrations(folder):
    """Return [{camera: (K, vehicle_T_cam)}] of the calibrations of nuScenes' tables, in order."""
    tables = folder / 'extras/nuscenes_mini_val/v1.0-mini'
    if not tables.is_dir():
        pytest.skip(f'no {tables}')
    channels = {
        each['token']: each['channel'] for each in json.loads((tables / 'sensor.json').read_text())
    }
    found = [{}, {}]
    for each in json.loads((tables / 'calibrated_sensor.json').read_text()):
        name = channels[each['sensor_token']]
        if name.startswith('CAM'):
            pose = np.eye(4)
            pose[:3, :3] = rotation_matrix(each['rotation'])
            pose[:3, 3] = each['translation']
            K = np.pad(np.array(each['camera_intrinsic']), ((0, 0), (0, 1)))
            found[name in found[0]][name] = (K, pose)
    return found


def test_one_instance_over_two_calibrations_equals_a_fresh_one_for_each(mono3d_data, one_thread):
    """N1, with both calibrations of every camera of nuScenes-mini's validation scenes."""
    first, second = read_calibrations(mono3d_data)
    assert len(first) == len(second) == 6
    assert any(not np.array_equal(first[name][0], second[name][0]) for name in first)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 90, 160, 3), np.uint8)
    resize = np.diag([0.1, 0.1, 1.0])

    def views(calibration):
        cameras = [calibration[name] for name in sorted(calibration)]
        return [RigView(i, resize @ K, pose) for i, (K, pose) in zip(images, cameras, strict=True)]

    shared = predictor()
    for calibration in (first, second, first, second):
        assert_equal_objects(shared(views(calibration)), predictor()(views(calibration)))
    assert len(shared.runner._cells) == 2


@pytest.mark.parametrize('changed', ['P', 'pose', 'size'])
def test_a_change_of_calibration_takes_effect_at_once(changed):
    views = toy_views()
    other = list(views)
    if changed == 'P':
        other[1] = views[1]._replace(P=np.diag([1.1, 1.1, 1.0]) @ views[1].P)
    elif changed == 'pose':
        pose = views[1].vehicle_T_cam.copy()
        pose[0, 3] += 0.9
        other[1] = views[1]._replace(vehicle_T_cam=pose)
    else:
        half = views[1].image[::2, ::2]
        other[1] = views[1]._replace(image=half)
    shared = predictor()
    shared(views)
    assert_equal_objects(shared(other), predictor()(other))
    assert len(shared.runner._cells) == 2


def test_only_the_last_calibrations_are_kept():
    views, shared = toy_views(), predictor()
    for step in range(KEPT_CALIBRATIONS + 3):
        pose = views[0].vehicle_T_cam.copy()
        pose[0, 3] += 0.1 * step
        shared([views[0]._replace(vehicle_T_cam=pose), *views[1:]])
    assert len(shared.runner._cells) == KEPT_CALIBRATIONS


def test_a_missing_camera_is_masked_and_all_missing_is_refused():
    views, model = toy_views(), predictor()
    without = model([views[0], None, views[2]])
    dark = [views[0], views[1]._replace(image=np.zeros_like(views[1].image)), views[2]]
    assert_equal_objects(without, predictor()([views[0], None, views[2]]))
    assert not np.array_equal(model(dark).score, without.score)
    with pytest.raises(ValueError, match='no picture of any camera'):
        model([None, None])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'P': np.eye(3)}, r'P: expected a finite \(3, 4\)'),
        ({'vehicle_T_cam': np.full((4, 4), np.nan)}, r'vehicle_T_cam: expected a finite \(4, 4\)'),
        ({'image': np.zeros((4, 4), np.uint8)}, 'uint8 image'),
        ({'given_depth': np.zeros((180, 320), np.float32)}, 'takes no given depth'),
    ],
)
def test_views_that_do_not_fit_are_refused(change, message):
    views = toy_views()
    with pytest.raises(ValueError, match=message):
        predictor()([views[0]._replace(**change), *views[1:]])


def test_a_privileged_teacher_needs_given_depth():
    model = predictor('objects')
    with pytest.raises(ValueError, match='given_depth: objects'):
        model(toy_views())
    absent = model(toy_views(given=np.zeros((180, 320), np.float32)))
    given = model(toy_views(given=np.full((180, 320), 8.0, np.float32)))
    assert_equal_objects(absent, predictor()(toy_views()))
    assert not np.array_equal(given.score, absent.score)


def test_numbers_that_are_not_finite_are_dropped_and_counted():
    model = predictor()
    with torch.no_grad():
        model.runner.detector.heads.heads['height'][-1].bias.fill_(torch.nan)
    found = model.detect(toy_views())
    assert len(found.objects) == 0
    assert found.num_not_finite > 0


def test_nms_in_the_vehicle_frame_compares_turned_footprints():
    """Two crossed boxes share a square: 1 of 4 + 4 - 1 square metres; parallel ones all."""
    crossed, parallel = (
        VehicleObjects(
            class_id=[0, 0],
            score=[0.9, 0.8],
            center_m=[[5.0, 2.0, 0.0]] * 2,
            size_hwl_m=[[1.0, 1.0, 4.0]] * 2,
            yaw=[0.4, 0.4 + turn],
        )
        for turn in (np.pi / 2, np.pi)
    )
    assert len(vehicle_nms(crossed, 1 / 7 + 0.01)) == 2
    assert len(vehicle_nms(crossed, 1 / 7 - 0.01)) == 1
    assert len(vehicle_nms(parallel, 0.9)) == 1
    beside = dataclasses.replace(parallel, center_m=[[5.0, 2.0, 0], [5 + 1.1, 2 + 0.5, 0]])
    along = dataclasses.replace(beside, yaw=[np.arctan2(0.5, 1.1)] * 2)
    assert len(vehicle_nms(along, 0.2)) == 1  # 1.2 m apart along a length of 4 m
    across = dataclasses.replace(beside, yaw=[np.arctan2(0.5, 1.1) + np.pi / 2] * 2)
    assert len(vehicle_nms(across, 0.2)) == 2  # 1.2 m apart across a width of 1 m


def test_samples_of_a_data_set_give_objects_and_labels_of_every_image():
    source = ToyRigSource(ToyRigConfig(samples=2, missing=('left',)))
    samples = [source.read(name) for name in source.ids]
    found = predict_samples(predictor(), samples)
    assert len(found.objects) == 2
    assert len(found.labels) == 5
    names = {str(name) for labels in found.labels for name in labels.name}
    assert names <= set(NAMES)


def test_objects_are_projected_as_their_labels_are():
    sample = ToyRigSource(ToyRigConfig(objects=6)).read('s0')
    objects = sample.labels.to_objects(NAMES)
    for image in sample.images:
        seen = project_to_image(objects, image.P, image.vehicle_T_cam, (320, 180))
        assert isinstance(seen, Objects3D)
        expected = image.labels.to_objects(NAMES)
        for center, box, yaw in zip(
            expected.center_m, expected.box_px, expected.rotation_y, strict=True
        ):
            row = int(np.linalg.norm(seen.center_m - center, axis=1).argmin())
            np.testing.assert_allclose(seen.center_m[row], center, atol=1e-9)
            np.testing.assert_allclose(seen.box_px[row], box, atol=1e-6)
            assert seen.rotation_y[row] == pytest.approx(yaw)


def test_given_depth_of_another_sample_needs_one():
    source = ToyRigSource(ToyRigConfig(samples=2))
    samples = [source.read(name) for name in source.ids]
    model = predictor('objects')
    other, absent = (predict_samples(model, samples, given) for given in (OTHER, ABSENT))
    assert not np.array_equal(other.objects[0].score, absent.objects[0].score)
    with pytest.raises(DataError, match='another sample'):
        predict_samples(model, samples[:1], OTHER)


def test_a_file_is_loaded_by_the_predictor_of_its_kind(tmp_path):
    path = tmp_path / 'rig.safetensors'
    model = small_lift_splat().eval()
    save_model(path, model, ModelSpec(NAMES, INPUT, 'lift_splat', SMALL))
    loaded = load_rig_predictor(path, 'cpu', 0.0)
    assert_equal_objects(loaded(toy_views()), predictor()(toy_views()))
    assert loaded.device == 'cpu'


def test_a_file_of_a_single_image_model_is_refused(tmp_path):
    from small_detectors import SMALL as IMAGE_SMALL
    from small_detectors import build

    path = tmp_path / 'image.safetensors'
    save_model(path, build('monodle'), ModelSpec(NAMES, INPUT, 'monodle', IMAGE_SMALL['monodle']))
    with pytest.raises(ModelFileError, match='a model of single images'):
        load_rig_predictor(path)
