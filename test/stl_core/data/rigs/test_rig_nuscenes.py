"""Real nuScenes tables and the real sample as samples of six cameras."""

import dataclasses

import numpy as np
import pytest
import torch
from nuscenes_sample import write_database

from stl_core.data.augmentation import Config
from stl_core.data.dataset import DataConfig
from stl_core.data.rigs.augmentation import GroundConfig
from stl_core.data.rigs.dataset import RigDataConfig, RigDataset
from stl_core.data.rigs.sample import camera_poses, labels_to_vehicle
from stl_core.data.sources import SOURCES
from stl_core.models.lift_splat.frustum import pixels_to_rays
from stl_core.preprocessing import InputSpec

CLASSES = (
    *('car', 'truck', 'bus', 'trailer', 'construction_vehicle', 'pedestrian', 'motorcycle'),
    *('bicycle', 'traffic_cone', 'barrier'),
)
SPEC = InputSpec(352, 128, cut_top=True)


def open_dataset(root, needs=None, **options):
    source = SOURCES['nuscenes'].from_folder(root, True)
    config = DataConfig(sources=(source,), max_depth_m=51.2, max_objects=200, **options)
    return RigDataset(config, SPEC, CLASSES, 0, needs=needs or RigDataConfig())


@pytest.fixture(scope='module')
def mini_val(mono3d_data):
    root = mono3d_data / 'extras/nuscenes_mini_val'
    if not root.is_dir():
        pytest.skip(f'no {root}')
    return open_dataset(root)


@pytest.fixture(scope='module')
def real_sample(mono3d_data, tmp_path_factory):
    folder = mono3d_data / 'extras/nuscenes_mini_sample'
    if not folder.is_dir():
        pytest.skip(f'no {folder}')
    root = tmp_path_factory.mktemp('nuscenes')
    write_database(folder, root)
    return root


def test_every_box_of_the_validation_scenes_is_taught_or_left_out_for_a_reason(mini_val):
    """The published number of their boxes is 4514."""
    counts = mini_val.counts
    assert counts['samples'] == len(mini_val) == 81
    assert sum(counts['taught'].values()) + sum(counts['left_out'].values()) == 4514
    assert len(mini_val.cameras) == 6


def test_boxes_of_the_images_return_to_those_of_the_sample(mini_val):
    """To a nanometre; a camera's pitch foreshortens a heading by less than 0.1 degrees."""
    compared = 0
    for sample in mini_val.samples[::9]:
        for image, pose in zip(sample.images, camera_poses(sample), strict=True):
            back = labels_to_vehicle(image.labels, pose)
            gap = np.linalg.norm(back.center_m[:, None] - sample.labels.center_m, axis=-1)
            nearest = gap.argmin(1)
            np.testing.assert_allclose(gap.min(1), 0, atol=1e-9)
            turned = np.angle(np.exp(1j * (back.yaw - sample.labels.yaw[nearest])))
            assert np.abs(turned).max(initial=0) < np.deg2rad(0.1)
            compared += len(nearest)
    assert compared > 200


@pytest.mark.parametrize('augmented', [False, True])
def test_depth_of_the_scan_returns_to_its_points_under_every_augmentation(real_sample, augmented):
    """A canvas pixel of 1.3 milliradians rounds a point at 50 m by at most 0.13 m."""
    options = {'augment': Config(flip=0.0)}
    if augmented:
        options = {
            'augment': Config(flip=0.5, crop=1.0, scale=0.1, shift=0.02),
            'ground': GroundConfig(rotate_deg=22.5, scale=0.05, flip_x=0.5, flip_y=0.5),
        }
    data = open_dataset(real_sample, RigDataConfig((), 'scan'), **options)
    sample, source = data[1, 0], data.samples[0]
    G = sample.vehicle_T_cam[0] @ np.linalg.inv(source.images[0].vehicle_T_cam)
    for view, pose, image in zip(sample.views, sample.vehicle_T_cam, source.images, strict=True):
        v, u = np.nonzero((view.supervised_m > 0) & (view.supervised_m < 50))
        assert len(v) > 1000
        z = view.supervised_m[v, u]
        pixels = torch.from_numpy(np.stack([u, v], -1).astype(float))[None]
        rays = pixels_to_rays(torch.from_numpy(view.P)[None], torch.from_numpy(pose)[None], pixels)
        origin, direction = (each[0, 0].double().numpy() for each in rays)
        lifted = origin + z[:, None] * direction
        scan = image.points.read()[:, :3] @ image.vehicle_T_cam[:3, :3].T
        scan = (scan + image.vehicle_T_cam[:3, 3]) @ G[:3, :3].T
        some = lifted[:: max(len(lifted) // 100, 1)]
        gap = np.linalg.norm(some[:, None] - scan[None], axis=-1).min(1)
        assert gap.max() < 0.15
        assert np.median(gap) < 0.04


def test_the_real_sample_becomes_a_batch(real_sample):
    data = open_dataset(real_sample, RigDataConfig((), 'objects', 'objects'))
    batch = data.collate([data[0, 0]])
    assert batch.image.shape == (6, 128, 352, 3)
    assert batch.rig.present.all()
    assert (batch.image.float().mean((1, 2, 3)) > 20).all()
    # the rear camera keeps its shorter focal length
    focal = batch.P[:, 0, 0].abs()
    rear = data.cameras.index('CAM_BACK')
    others = np.delete(focal.numpy(), rear)
    assert others.min() / float(focal[rear]) == pytest.approx(1.57, abs=0.03)
    assert int(batch.targets.valid.sum()) == sum(data.counts['taught'].values())
    no_classes = dataclasses.replace(data.config, max_depth_m=1.0)
    assert not any(RigDataset(no_classes, SPEC, CLASSES, 0).counts['taught'].values())
