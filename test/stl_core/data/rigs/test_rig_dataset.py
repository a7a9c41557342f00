"""Samples of several cameras: pictures, projections, poses, objects and depth stay one scene."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
import toy_rig_source
from toy_rig_source import CAMERAS, NAMES, ToyRigConfig, ToyRigSource

from stl_core.data.augmentation import Config
from stl_core.data.dataset import DataConfig, ShuffledBatchSampler, load_image_and_depth
from stl_core.data.frame_source import DataError
from stl_core.data.rigs.augmentation import (
    GroundConfig,
    GroundParams,
    draw_present,
    transform_objects,
)
from stl_core.data.rigs.dataset import RigDataConfig, RigDataset
from stl_core.geometry import project_points
from stl_core.models.lift_splat.frustum import frustum_points, pixels_to_rays
from stl_core.preprocessing import InputSpec, letterbox_affine
from stl_core.types import ImageObjects

SPEC = InputSpec(160, 96)
PLAIN = Config(flip=0.0)
#: Every augmentation of pictures and ground, alone and together.
AUGMENTATIONS = {
    'none': ({}, {}),
    'flip': ({'flip': 1.0}, {}),
    'zoom': ({'crop': 1.0, 'scale': 0.2, 'shift': 0.05}, {}),
    'ground rotation': ({}, {'rotate_deg': 22.5}),
    'ground scale': ({}, {'scale': 0.05}),
    'ground flips': ({}, {'flip_x': 1.0, 'flip_y': 1.0}),
    'one ground flip': ({}, {'flip_y': 1.0}),
    'all': (
        {'flip': 0.5, 'crop': 1.0, 'scale': 0.2, 'shift': 0.05},
        {'rotate_deg': 180.0, 'scale': 0.3, 'flip_x': 0.5, 'flip_y': 0.5},
    ),
}


@pytest.fixture(scope='module', autouse=True)
def toy_rig_format():
    with toy_rig_source.registered():
        yield


def rig_dataset(picture=None, ground=None, spec=SPEC, needs=None, loader=None, **source):
    config = DataConfig(
        sources=(ToyRigConfig(**source),),
        max_objects=8,
        augment=dataclasses.replace(PLAIN, **(picture or {})),
        ground=GroundConfig(**(ground or {})),
    )
    options = {'load_images': loader} if loader else {}
    return RigDataset(config, spec, NAMES, 0, needs=needs or RigDataConfig(), **options)


def in_camera(center_m, vehicle_T_cam):
    return np.linalg.solve(vehicle_T_cam, np.append(center_m, 1.0))[:3]


def brightness_center(image):
    """Return the pixel at the centre of the light of a picture; None for a black one."""
    light = image.astype(float).sum(-1)
    if light.sum() < 1000:
        return None
    v, u = np.indices(light.shape)
    return np.array([(u * light).sum(), (v * light).sum()]) / light.sum()


@pytest.mark.parametrize('cut_top', [False, True])
@pytest.mark.parametrize('name', list(AUGMENTATIONS))
def test_the_dot_at_a_centre_lies_on_its_projection_and_in_its_cell(name, cut_top):
    """N15, with one object per sample: its dot is the only light of a picture."""
    picture, ground = AUGMENTATIONS[name]
    spec = dataclasses.replace(SPEC, cut_top=cut_top)
    data = rig_dataset(picture, ground, spec, objects=1, samples=5)
    seen = 0
    for epoch, index in ((e, i) for e in range(2) for i in range(5)):
        sample = data[epoch, index]
        (center,) = sample.objects.center_m
        for view, pose in zip(sample.views, sample.vehicle_T_cam, strict=True):
            point = in_camera(center, pose)
            expected, w = project_points(point, view.P)
            dot = brightness_center(view.image)
            margin = np.array([SPEC.width_px, SPEC.height_px]) - 6
            if dot is None or w <= 0 or not ((expected > 6) & (expected < margin)).all():
                continue  # cut off at the edge: its centre of light lies elsewhere
            seen += 1
            assert np.abs(dot - expected).max() < 0.5
            rays = pixels_to_rays(
                torch.from_numpy(view.P)[None],
                torch.from_numpy(pose)[None],
                torch.from_numpy(dot)[None, None],
            )
            lifted = frustum_points(*rays, torch.tensor([point[2]]))[0, 0, 0, 0].numpy()
            # half a pixel at this depth, on the scaled ground
            tolerance = 1.5 * 0.5 * point[2] / abs(view.P[0, 0]) + 1e-3
            assert np.abs(lifted - center).max() < tolerance
    assert seen >= 5


@pytest.mark.parametrize('name', list(AUGMENTATIONS))
def test_boxes_yaws_and_velocities_turn_with_the_ground(name):
    """A point ahead of an object, and one where it will be, move as the object does."""
    data, plain = rig_dataset(*AUGMENTATIONS[name], samples=2), rig_dataset(samples=2)
    before, after = plain[3, 1].objects, data[3, 1].objects
    G = data[3, 1].vehicle_T_cam[0] @ np.linalg.inv(plain[3, 1].vehicle_T_cam[0])
    scale = abs(np.linalg.det(G[:2, :2])) ** 0.5
    np.testing.assert_allclose(after.center_m, before.center_m @ G[:3, :3].T, atol=1e-9)
    np.testing.assert_allclose(after.size_hwl_m, scale * before.size_hwl_m)

    def nose(objects):
        heading = np.column_stack([np.cos(objects.yaw), np.sin(objects.yaw)])
        return objects.center_m[:, :2] + heading * objects.size_hwl_m[:, 2:]

    np.testing.assert_allclose(nose(after), nose(before) @ G[:2, :2].T, atol=1e-9)
    np.testing.assert_allclose(after.velocity_mps, before.velocity_mps @ G[:2, :2].T)
    assert np.isnan(after.velocity_mps).any()


def test_a_sample_depends_on_seed_epoch_and_index_alone():
    options = AUGMENTATIONS['all']
    first, again = (rig_dataset(*options)[2, 1] for _ in range(2))
    other = rig_dataset(*options)[3, 1]
    for one, two in zip(first.views, again.views, strict=True):
        assert np.array_equal(one.image, two.image)
    assert np.array_equal(first.vehicle_T_cam, again.vehicle_T_cam)
    assert not np.array_equal(first.vehicle_T_cam, other.vehicle_T_cam)


def test_a_batch_holds_view_after_view_of_each_sample():
    data = rig_dataset(samples=3)
    batch = data.collate([data[0, 0], data[0, 2]])
    assert batch.image.shape == (6, 96, 160, 3)
    assert batch.ids == ('s0', 's2')
    assert batch.rig.views == 3
    assert batch.rig.present.all()
    headings = [heading for heading, *_ in CAMERAS.values()] * 2
    forward = batch.rig.vehicle_T_cam[:, :2, 2]
    np.testing.assert_allclose(forward[:, 0], np.cos(headings), atol=1e-6)
    assert batch.targets.valid.sum(1).tolist() == [3, 3]
    assert batch.targets.attribute_id[batch.targets.valid].max() == -1


def test_a_camera_that_a_sample_lacks_is_absent():
    data = rig_dataset(missing=('left',))
    batch = data.collate([data[0, 0], data[0, 1]])
    assert batch.rig.present.tolist() == [True] * 4 + [False, True]
    assert not batch.image[4].any()


def test_cameras_drop_out_at_random_and_one_stays():
    data = rig_dataset(ground={'drop_camera': 0.9})
    present = [sum(view.present for view in data[epoch, 0].views) for epoch in range(30)]
    assert min(present) == 1
    assert len(set(present)) > 1
    rng = np.random.default_rng(0)
    assert all(draw_present(GroundConfig(drop_camera=1.0), 6, rng).sum() == 1 for _ in range(9))


def test_names_of_attributes_become_indices():
    data = rig_dataset(needs=RigDataConfig(attributes=('parked', 'moving')))
    assert sorted(data[0, 0].objects.attribute_id.tolist()) == [-1, -1, 1]


@pytest.mark.parametrize('kind', ['objects', 'scan'])
@pytest.mark.parametrize('name', ['flip', 'zoom', 'all'])
def test_depth_supervision_lies_where_the_picture_shows_the_object(kind, name):
    data = rig_dataset(
        *AUGMENTATIONS[name], needs=RigDataConfig(depth_supervision=kind), objects=1, samples=4
    )
    seen = 0
    for index in range(4):
        sample = data[1, index]
        (center,) = sample.objects.center_m
        for view, pose in zip(sample.views, sample.vehicle_T_cam, strict=True):
            point = in_camera(center, pose)
            (u, v), w = project_points(point, view.P)
            if w > 0 and 6 < u < 154 and 6 < v < 90 and brightness_center(view.image) is not None:
                around = view.supervised_m[
                    round(v) - 1 : round(v) + 2, round(u) - 1 : round(u) + 2
                ]
                assert around.max() == pytest.approx(point[2], rel=1e-5)
                seen += 1
            elif kind == 'scan':
                assert (view.supervised_m > 0).sum() <= 1
    assert seen >= 2
    batch = data.collate([data[0, 0], data[0, 1]])
    assert batch.targets.depth_m.shape == (2, 3, 96, 160)


def test_supervision_is_the_same_beside_a_teacher_that_is_given_depth():
    needs = RigDataConfig(depth_supervision='objects')
    alone = rig_dataset(*AUGMENTATIONS['all'], needs=needs)
    picture, ground = AUGMENTATIONS['all']
    beside = rig_dataset(
        picture | {'given_drop': 0.5, 'given_depth_jitter': 0.1},
        ground,
        needs=dataclasses.replace(needs, given='objects'),
    )
    for one, two in zip(alone[5, 2].views, beside[5, 2].views, strict=True):
        assert np.array_equal(one.image, two.image)
        assert np.array_equal(one.supervised_m, two.supervised_m)
    assert any((view.given_m > 0).any() for view in beside[5, 2].views)


def test_given_depth_of_every_view_has_its_own_noise():
    data = rig_dataset({'given_drop': 0.5}, needs=RigDataConfig(given='objects'), objects=30)
    given = [np.unique(view.given_m).size for view in data[0, 0].views]
    assert all(2 <= each < 11 for each in given)


def test_a_scan_that_is_missing_is_named():
    data = rig_dataset(needs=RigDataConfig(depth_supervision='scan'), scan=False)
    with pytest.raises(DataError, match=r's0/front/points: no LiDAR points.*depth_supervision'):
        data[0, 0]


def test_a_depth_teacher_sees_the_completed_scan_on_the_canvas():
    data = rig_dataset(loader=load_image_and_depth)
    batch = data.collate([data[0, 0]])
    assert batch.depth_m.shape == (3, 96, 160)
    assert (batch.depth_m > 0).any()


def test_windows_are_for_single_images():
    with pytest.raises(DataError, match='window'):
        rig_dataset({'window': 0.5, 'window_px': (20, 20)})


def test_the_sampler_counts_samples_and_workers_can_pickle_the_dataset():
    data = rig_dataset(samples=5)
    assert len(data) == 5
    assert len(data.images) == 15
    batches = list(ShuffledBatchSampler(len(data), 2, 0))
    assert sorted(index for batch in batches for _, index in batch) == list(range(5))
    assert np.array_equal(
        pickle.loads(pickle.dumps(data))[0, 1].views[0].image, data[0, 1].views[0].image
    )


def test_objects_are_counted_with_the_reason_for_leaving_them_out():
    config = DataConfig(sources=(ToyRigConfig(samples=2, objects=6),), max_depth_m=12.0)
    data = RigDataset(config, SPEC, ('Car', 'Cyclist'), 0)
    counts = data.counts
    assert counts['samples'] == 2
    assert counts['left_out']['class'] == 4
    assert sum(counts['taught'].values()) + sum(counts['left_out'].values()) == 12
    ranges = [np.hypot(*data[0, i].objects.center_m[:, :2].T) for i in range(2)]
    assert max(map(max, ranges)) <= 12


def test_an_object_without_a_point_is_left_out(monkeypatch):
    read = ToyRigSource.read

    def without_points(self, sample_id):
        sample = read(self, sample_id)
        labels = dataclasses.replace(sample.labels, num_points=[0, 5, -1])
        return dataclasses.replace(sample, labels=labels)

    monkeypatch.setattr(ToyRigSource, 'read', without_points)
    data = rig_dataset(samples=1)
    assert data.counts['left_out'] == {'points': 1}
    assert len(data[0, 0].objects) == 2


def test_cutting_the_top_keeps_width_and_lower_edge():
    spec = InputSpec(352, 128, cut_top=True)
    A = letterbox_affine(1600, 900, spec)
    corners = np.array([[-0.5, 899.5, 1], [1599.5, 899.5, 1], [-0.5, -0.5, 1]]).T
    # the lower edge of the picture is that of the canvas, the upper one lies 70 rows above it
    np.testing.assert_allclose((A @ corners)[:2].T, [[-0.5, 127.5], [351.5, 127.5], [-0.5, -70.5]])


@pytest.mark.parametrize('angle', [0.0, 0.4])
def test_twice_the_same_flip_is_none(angle):
    data = rig_dataset(samples=1)
    objects = data[0, 0].objects
    flip = GroundParams(flip_x=True)
    back = transform_objects(transform_objects(objects, flip), flip)
    np.testing.assert_allclose(np.exp(1j * back.yaw), np.exp(1j * objects.yaw), atol=1e-12)
    turned = transform_objects(objects, GroundParams(angle=angle))
    np.testing.assert_allclose(
        np.exp(1j * turned.yaw), np.exp(1j * (objects.yaw + angle)), atol=1e-12
    )


def test_no_objects_are_legal():
    data = rig_dataset(objects=0, needs=RigDataConfig('', 'objects', 'objects'))
    batch = data.collate([data[0, 0], data[0, 1]])
    assert not batch.targets.valid.any()
    assert not batch.given_depth_m.any()
    assert ImageObjects.empty().class_id.size == 0
