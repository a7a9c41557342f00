"""Synthetic data: reproducible files; labels, masks, depth and LiDAR are consistent."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from stl_core.cli import main
from stl_core.data import scan_file
from stl_core.data.sources import kitti, kitti_calib
from stl_core.data.synthetic import frame, sequence, writer
from stl_core.data.synthetic.rendering import textures
from stl_core.data.synthetic.rendering.shadows import sunlit_mask
from stl_core.data.synthetic.scene import builder as shapes
from stl_core.data.synthetic.scene.builder import Bar, Builder, Frustum, Prism, Spheroid, box_shape
from stl_core.data.synthetic.scene.distributions import (
    CLASSES,
    QUANTILE_LEVELS,
    draw_index,
    draw_uniform,
    load_kitti_statistics,
    measure_labels,
    scale_draws,
    summarise_labels,
)
from stl_core.data.synthetic.scene.solids import ObjectPose
from stl_core.data.synthetic.scene.vehicles import add_car
from stl_core.data.synthetic.scene.world import make_world
from stl_core.data.synthetic.sensors import camera, labels, lidar, ray_caster
from stl_core.data.synthetic.sensors.ray_caster import RayGrid, cast_rays
from stl_core.evaluation.average_precision import evaluate_detections
from stl_core.geometry import box_corners, project_points

pytestmark = pytest.mark.usefixtures('one_thread')

SMALL = camera.KITTI.scaled(414, 125)
LASER = lidar.Lidar(columns=500)
SEED = 3


@pytest.fixture(scope='module')
def made():
    return [frame.make_frame(SEED, i, SMALL, LASER) for i in range(6)]


def files_of(root):
    return {p.relative_to(root): p.read_bytes() for p in sorted(root.rglob('*.*'))}


def test_files_do_not_depend_on_the_number_of_workers(tmp_path):
    job = writer.SynthesisJob(out='', seed=SEED, model=SMALL, lidar=LASER)
    for workers in (0, 2):
        out = replace(job, out=str(tmp_path / str(workers)))
        writer.synthesize_dataset(out, 3, workers, show_progress=False)
    serial, parallel = files_of(tmp_path / '0'), files_of(tmp_path / '2')
    assert len(serial) == 5 * 3 + 3 + 1
    assert serial == parallel


def test_another_seed_gives_another_image():
    a, b = (frame.make_frame(seed, 0, SMALL).image for seed in (1, 2))
    assert (a != b).any()


def test_an_interrupted_run_resumes_and_other_settings_are_rejected(tmp_path):
    job = writer.SynthesisJob(out=str(tmp_path), seed=SEED, model=SMALL, depth=False)
    writer.synthesize_dataset(job, 2, 0, show_progress=False)
    before = files_of(tmp_path)
    (tmp_path / 'training/label_2/000001.txt').unlink()
    writer.synthesize_dataset(job, 2, 0, show_progress=False)
    assert files_of(tmp_path) == before
    with pytest.raises(kitti.DataError, match='other settings'):
        writer.synthesize_dataset(replace(job, seed=9), 2, 0, show_progress=False)


def test_the_kitti_readers_read_a_synthetic_data_set(tmp_path):
    job = writer.SynthesisJob(out=str(tmp_path), seed=SEED, model=SMALL, lidar=LASER)
    writer.synthesize_dataset(job, 5, 0, show_progress=False)
    root = tmp_path / 'training'
    ids = kitti.read_split(tmp_path / 'ImageSets/trainval.txt')
    assert len(kitti.read_split(tmp_path / 'ImageSets/train.txt')) == 4
    folders = [str(root / name) for name in ('image_2', 'calib', 'label_2', 'velodyne')]
    source = kitti.KittiFolders(*folders)
    for number, files in enumerate(kitti.list_kitti_frames(source, ids)):
        same = frame.make_frame(SEED, number, SMALL, LASER)
        np.testing.assert_array_equal(kitti.read_image(files.image_2), same.image)
        calib = kitti_calib.read_calib(files.calib)
        np.testing.assert_allclose(calib.P2, same.camera.P, atol=1e-9)
        points = scan_file.read_velodyne(files.velodyne)
        np.testing.assert_array_equal(points, same.scan.points)
        read, expected = kitti.read_labels(files.label_2), same.annotations.labels
        assert read.name.tolist() == expected.name.tolist()
        np.testing.assert_allclose(read.center_m, expected.center_m, atol=1e-3)
        np.testing.assert_allclose(read.box_px, expected.box_px, atol=1e-3)


@pytest.mark.parametrize(('count', 'val_ids'), [(1, ''), (2, '1'), (4, '3'), (5, '4'), (11, '49')])
def test_every_fifth_frame_is_for_validation_and_at_least_one(tmp_path, count, val_ids):
    ids = [f'{i:06d}' for i in range(count)]
    writer.write_splits(tmp_path, ids)
    train, val, both = (
        (tmp_path / f'{name}.txt').read_text().split() for name in ('train', 'val', 'trainval')
    )
    assert val == [f'{int(each):06d}' for each in val_ids]
    assert both == ids == sorted(train + val)


def test_masks_lie_within_projected_boxes(made):
    for each in made:
        truth = each.annotations.labels
        keep = truth.name != 'DontCare'
        truth, actor_id = truth[keep], each.annotations.actor_id[keep]
        boxes_3d = truth.center_m, truth.size_hwl_m, truth.rotation_y
        outline = labels.project_boxes(*boxes_3d, each.camera.P)
        for row, number in enumerate(actor_id):
            v, u = np.nonzero(each.instance_mask == number)
            assert u.min() >= outline[row, 0] - 1
            assert u.max() <= outline[row, 2] + 1
            assert v.min() >= outline[row, 1] - 1
            assert v.max() <= outline[row, 3] + 1
            assert truth.box_px[row, 0] <= u.min() <= u.max() <= truth.box_px[row, 2]


def test_scan_and_depth_agree(made):
    for each in made:
        points = each.scan.points
        points_m = np.stack([-points[:, 1], -points[:, 2], points[:, 0]], 1) + LASER.position_m
        pixels, ahead = project_points(points_m, each.camera.P)
        inside = (ahead > 1) & (pixels > 0).all(1) & (pixels < [412, 123]).all(1)
        u, v = pixels[inside].astype(int).T
        patch = np.stack([each.depth_m[v + j, u + i] for j in (0, 1) for i in (0, 1)])
        low, high = patch.min(0) - 0.1, patch.max(0) + 0.1
        z = points_m[inside, 2]
        assert ((low < z) & (z < high)).mean() > 0.93


def test_points_on_an_object_lie_in_its_box(made):
    for each in made:
        points = each.scan.points
        points_m = np.stack([-points[:, 1], -points[:, 2], points[:, 0]], 1) + LASER.position_m
        truth = each.annotations.labels
        for row, number in enumerate(each.annotations.actor_id):
            if truth.name[row] == 'DontCare':
                continue
            away = points_m[each.scan.actor_id == number] - truth.center_m[row]
            turned = away @ axes(truth.rotation_y[row]).T
            assert (np.abs(turned) <= truth.size_hwl_m[row] / 2 + 0.1).all()


def axes(yaw):
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[0, 1, 0], [sin, 0, cos], [cos, 0, -sin]])


def test_the_evaluator_scores_the_labels_as_perfect_detections(made):
    truth = [each.annotations.labels for each in made] * 40
    result = evaluate_detections(truth, [each[each.name != 'DontCare'] for each in truth])
    ap = np.array(result['Car'].by_difficulty('3d', 'AP40', 'strict'))
    assert ap[2] == pytest.approx(100.0)


def test_the_image_has_contrast(made):
    for each in made:
        assert each.image.dtype == np.uint8
        assert each.image.shape == (125, 414, 3)
        assert 15 < each.image.std() < 100


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_the_gpu_renders_the_same_image():
    cpu = frame.make_frame(SEED, 0, SMALL).image.astype(int)
    gpu = frame.make_frame(SEED, 0, SMALL, device='cuda').image.astype(int)
    assert np.abs(cpu - gpu).mean() < 0.2


def test_a_car_fills_its_box_and_stays_in_it():
    rng = np.random.default_rng(0)
    for _ in range(8):
        position_m, size = np.array([1.0, 1.5, 12.0]), np.array([1.5, 1.7, 4.0])
        pose = ObjectPose(position_m, rng.uniform(-3, 3), size, 0)
        builder = Builder()
        add_car(builder, pose, rng)
        solids = builder.solids()
        hits = cast_rays(*rays_from_above(), solids, 1)
        center_m = pose.bottom_m - [0, 0.75, 0]
        truth = box_corners(center_m[None], pose.size_hwl_m[None], np.array([pose.yaw]))
        low, high = truth[0].min(0), truth[0].max(0)
        assert hits.num_unoccluded[0] > 0
        distance = solids.planes[..., :3] @ (pose.bottom_m - [0, 0.5, 0]) - solids.planes[..., 3]
        assert distance[0].max() < 0  # the body contains the centre of its box
        assert (solids.bounds[0] >= low - 1e-6).all()
        assert (solids.bounds[0] <= high + 1e-6).all()


def rays_from_above():
    columns = np.stack([np.linspace(-0.6, 0.6, 120), np.ones(120)], 1)
    return (RayGrid(np.array([1.0, 0.0, 0.0]), columns, np.linspace(-0.4, 0.6, 80)),)


@pytest.mark.parametrize(
    'shape',
    [
        box_shape((-1, 2), (0, 1), (-1, 1)),
        Frustum((-2, 2), (-1, 1), (-1, 1.5), (-0.5, 0.7), (0.2, 1.4)),
        Prism([(-1, 0), (1, 0), (0.5, 1), (-0.6, 1.2)], 0.8, 0.2),
        Bar([0, 0, 0], [0.3, 1.2, 0.4], (0.3, 0.1)),
        Bar([0, 0, 0], [0.1, 0.1, 1.0], (0.1, 0.2)),
    ],
)
def test_planes_and_corners_describe_one_solid(shape):
    fields = [np.array([field, field], float) for field in shape]
    for planes, vertices in zip(*shapes.CARVERS[type(shape)](*fields), strict=True):
        np.testing.assert_allclose(np.linalg.norm(planes[:, :3], axis=1), 1.0, atol=1e-12)
        slack = planes[:, 3] - vertices @ planes[:, :3].T
        assert slack.min() > -1e-9  # every corner is inside
        assert (np.isclose(slack, 0, atol=1e-9).sum(0) >= 3).all()  # every plane contains a face


def test_solids_keep_the_order_of_their_parts():
    builder = Builder()
    pose = ObjectPose(np.array([1.0, 2.0, 3.0]), 0.3, np.ones(3))
    bar, roof = Bar((0, 0, 0), (0, 2, 0), (1, 1)), Prism([(0, 0), (1, 0), (0, 1)], 0.5)
    cube, ball = box_shape((0, 1), (0, 1), (0, 1)), Spheroid((0, 1, 0), (2, 3))
    for number, part in enumerate([cube, ball, bar, roof, cube]):
        builder.add(pose, part, number, np.ones(3) * number, casts_shadow=number % 2 == 0)
    solids = builder.solids()
    assert solids.material.tolist() == [0, 1, 2, 3, 4]
    assert solids.colour[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert (solids.spheroid[:, 3] > 0).tolist() == [False, True, False, False, False]
    np.testing.assert_allclose(solids.spheroid[1], [1, 1, 3, 2, 3])
    used = (np.abs(solids.planes[..., :3]).sum(-1) > 0).sum(1)
    assert used.tolist() == [6, 0, 6, 5, 6]


def test_draws_equal_those_of_numpy():
    rng, numpy_rng = np.random.default_rng(5), np.random.default_rng(5)
    weights = (0.2, 0.5, 0.0, 0.3)
    for _ in range(50):
        expected = numpy_rng.uniform(-2.0, 3.5)
        assert draw_uniform(rng, -2.0, 3.5) == pytest.approx(expected, rel=1e-14)
        assert draw_index(rng, weights) == numpy_rng.choice(4, p=weights)
        low, high = np.array([0.0, 1.0]), np.array([0.5, 4.0])
        scaled = scale_draws(rng.random(2), low, high)
        np.testing.assert_allclose(scaled, numpy_rng.uniform(low, high))


def test_rays_hit_a_box_at_the_expected_distance():
    builder = Builder()
    pose = ObjectPose(np.array([0.0, 1.0, 10.0]), -np.pi / 2, np.ones(3), 0)
    builder.add(pose, box_shape((-2, 2), (0, 2), (-1, 1)), 0, np.ones(3))
    columns = np.array([[-0.2, 1.0], [0.0, 1.0], [0.3, 1.0]])
    rays = RayGrid(np.zeros(3), columns, np.array([-0.05, 0.3]))
    hits = cast_rays(rays, builder.solids(), 1)
    np.testing.assert_allclose(hits.inverse_distance[0], [0, 1 / 8, 0], atol=1e-6)
    assert hits.num_unoccluded.tolist() == [1]
    assert hits.extent_px.tolist() == [[1, 0, 1, 0]]


def test_trimmed_rows_of_rectangles_contain_no_hit(monkeypatch):
    world = make_world(frame.random_stream(SEED, 1, frame.WORLD_STREAM))
    solids = world.solids().in_rig_frame(world.ego_m - [0, 1.65, 0], world.heading)
    rays, _ = camera.camera_rays(SMALL.draw(np.random.default_rng(0)), yaw_deg=20.0)
    trimmed = cast_rays(rays, solids, len(world.actors))
    monkeypatch.setattr(ray_caster, 'LARGE_PX', 10**9)
    whole = cast_rays(rays, solids, len(world.actors))
    fields = ('num_unoccluded', 'extent_px', 'num_visible')
    for field in ('inverse_distance', 'solid', 'face', *fields):
        np.testing.assert_array_equal(getattr(trimmed, field), getattr(whole, field))
    assert (whole.solid >= 0).mean() > 0.3


def test_shadows_lie_where_solids_block_the_ray_to_the_sun():
    # along is z, across is -x
    pose = ObjectPose(np.array([1.0, 1.5, 9.0]), -np.pi / 2, np.ones(3))
    builder = Builder()
    builder.add(pose, box_shape((-1, 1), (0, 2), (-1.5, 1.5)), 0, np.ones(3))
    builder.add(pose, Spheroid((3.0, 1.0, -4.0), (1.0, 0.5)), 0, np.ones(3))
    rays, _ = camera.camera_rays(SMALL.draw(np.random.default_rng(0)))
    hit = np.repeat(rays.rows[:, None] > 0.02, len(rays.columns), 1)  # horizontal ground
    distance = np.where(hit, (1.5 - rays.origin[1]) / np.maximum(rays.rows, 0.02)[:, None], 1e4)
    x, z = rays.columns.T
    directions = np.stack(np.broadcast_arrays(x, rays.rows[:, None], z))
    points = rays.origin[:, None, None] + directions * distance
    sun = np.array([0.5, -0.7, -0.2]) / np.linalg.norm([0.5, -0.7, -0.2])
    lit = sunlit_mask(torch.from_numpy(points).float(), hit, sun, builder.solids(), rays).numpy()
    low, high = np.array([-0.5, -0.5, 8.0]), np.array([2.5, 1.5, 10.0])
    times = np.stack([(edge[:, None, None] - points) / sun[:, None, None] for edge in (low, high)])
    blocked = times.max(0).min(0) > np.maximum(times.min(0).max(0), 0.05)
    scale = np.array([1.0, 0.5, 1.0])[:, None, None]
    offset = (points - np.array([5.0, 0.5, 12.0])[:, None, None]) / scale
    direction = sun[:, None, None] / scale
    nearest = np.maximum(-(offset * direction).sum(0) / (direction * direction).sum(), 0.05)
    blocked |= ((offset + nearest * direction) ** 2).sum(0) < 1
    assert 300 < blocked[hit].sum() < 0.5 * hit.sum()
    assert ((lit == 0) != blocked)[hit].mean() < 1e-3


def test_noise_repeats_with_its_tile_and_fades_with_the_footprint():
    rng = np.random.default_rng(0)
    u, v = (torch.from_numpy(rng.uniform(-20, 20, 400)).float() for _ in range(2))
    footprint = torch.full_like(u, 1e-3)
    for layer in range(textures.NUM_LAYERS):
        texels = textures.noise_atlas(u.device)[layer]
        noise = textures.sample_noise(layer, u, v, footprint, 4.0)
        x, y = ((each * 128).floor().long() % 512 for each in (u, v))
        np.testing.assert_array_equal(noise, texels[512 * 512 + y * 512 + x])
        again = textures.sample_noise(layer, u + 8, v - 4, footprint, 4.0)
        assert ((noise - again).abs() > 1e-6).float().mean() < 0.02
        assert textures.sample_noise(layer, u, v, 4000 * footprint, 4.0).abs().max() < 0.2


def test_hashes_equal_those_of_unbounded_integers():
    keys = [torch.tensor([0.0, 5.0, -3.0, 90210.0]), torch.tensor([1.0, 0.0, 7.0, -12.0])]
    expected = []
    for row in zip(*(key.tolist() for key in keys), strict=True):
        value = 0
        for key in row:
            value = (value * 1103515245 + int(key) * 12345 + 40503) & 0x7FFFFFFF
            value = (((value >> 13) ^ value) * 48271) & 0x7FFFFFFF
        expected.append((value & 0xFFFF) / 65536)
    assert textures.hash_random(*keys).tolist() == expected


def test_synthesize_drive_writes_the_tracking_layout(tmp_path):
    job = writer.SynthesisJob(out=str(tmp_path), seed=SEED, model=SMALL, lidar=LASER)
    sequence.synthesize_drive(job, 3, 0, surround=True, show_progress=False)
    rows = (tmp_path / 'training/label_02/0000.txt').read_text().splitlines()
    assert {len(row.split()) for row in rows} == {17}
    assert {row.split()[0] for row in rows} == {'0', '1', '2'}
    oxts = (tmp_path / 'training/oxts/0000.txt').read_text().splitlines()
    assert [len(row.split()) for row in oxts] == [30] * 3
    poses = np.loadtxt(tmp_path / 'training/poses/0000.txt').reshape(-1, 3, 4)
    np.testing.assert_allclose(poses[0], np.eye(4)[:3], atol=1e-9)
    assert 0.4 < poses[1, 2, 3] < 1.3
    scan = scan_file.read_velodyne(tmp_path / 'training/velodyne/0000/000000.bin')
    for camera_name in sequence.SURROUND_CAMERAS:
        root = sequence.camera_folder(tmp_path, camera_name) / 'object'
        folders = [str(root / name) for name in ('image_2', 'calib', 'label_2')]
        source = kitti.KittiFolders(*folders)
        files = kitti.list_kitti_frames(source)
        assert len(files) == 3
        tracked = kitti_calib.read_calib(root.parent / 'training/calib/0000.txt')
        single = kitti_calib.read_calib(files[0].calib)
        np.testing.assert_allclose(tracked.cam_T_velo, single.cam_T_velo)
        truth = kitti.read_labels(files[0].label_2)
        points_m = scan[:, :3] @ single.cam_T_velo[:3, :3].T + single.cam_T_velo[:3, 3]
        for row in np.flatnonzero((truth.name == 'Car') & (truth.occluded == 0)):
            offset = (points_m - truth.center_m[row]) @ axes(truth.rotation_y[row]).T
            assert (np.abs(offset) <= truth.size_hwl_m[row] / 2 + 0.1).all(1).any()


def test_kitti_statistics_have_the_right_shape_and_give_the_right_sizes():
    for name, statistics in load_kitti_statistics().items():
        assert name in CLASSES
        assert all(len(q) == len(QUANTILE_LEVELS) for q in statistics.quantiles.values())
        sizes = statistics.draw_sizes(np.random.default_rng(0), 4000)
        assert sizes.shape == (4000, 3)
        means = [statistics.mean[key] for key in ('height_m', 'width_m', 'length_m')]
        np.testing.assert_allclose(sizes.mean(0), means, rtol=0.05)


def test_summarise_labels_of_synthetic_frames(made):
    frames = [each.annotations.labels for each in made]
    summary = summarise_labels(frames, 'Car')
    assert sum(summary['counts']) == pytest.approx(1, abs=1e-3)
    assert summary['difficulty'] == sorted(summary['difficulty'])
    assert set(measure_labels(frames[0])) == set(summary['mean'])


def test_the_synthesize_command(tmp_path, capsys):
    arguments = '--frames 1 --workers 0 --size 207x62'.split()
    main.main(['synthesize', str(tmp_path / 'a'), *arguments])
    assert (tmp_path / 'a/training/depth_2/000000.png').exists()
    camera_file = tmp_path / 'camera.json'
    model = {'width_px': 200, 'height_px': 80, 'focal_px': 150.0, 'center_px': [99, 40]}
    camera_file.write_text(json.dumps(model))
    arguments = '--frames 1 --workers 0 --no-lidar --jpg --camera'.split() + [str(camera_file)]
    main.main(['synthesize', str(tmp_path / 'b'), *arguments])
    assert kitti.read_image(tmp_path / 'b/training/image_2/000000.jpg').shape == (80, 200, 3)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--frames', '0'], 'at least 1'),
        (['--frames', '1', '--camera', 'holga'], 'holga'),
        (['--frames', '1', '--size', '640'], 'WIDTHxHEIGHT'),
        (['--frames', '1', '--surround'], '--sequence'),
    ],
)
def test_the_command_rejects_invalid_arguments(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main.main(['synthesize', str(tmp_path), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
