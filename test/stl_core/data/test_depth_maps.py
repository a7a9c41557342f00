"""Depth maps: rasterised rays, agreement with true depth, exact file round trip, CLI."""

import cv2
import numpy as np
import pytest
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import distance_transform_edt, minimum_filter1d

from stl_core import geometry
from stl_core.cli import main
from stl_core.data import scan_file
from stl_core.data.depth_completion import complete_depth, occluded_rays
from stl_core.data.depth_maps import (
    MAX_DEPTH_M,
    depth_from_scan,
    load_frame_depth,
    read_depth,
    sparse_depth,
    velo_to_camera,
    write_depth,
)
from stl_core.data.frame_source import read_images
from stl_core.data.sources import kitti, kitti_calib
from stl_core.data.synthetic import frame
from stl_core.data.synthetic.sensors import camera, lidar
from stl_core.geometry import backproject_pixels
from stl_core.preprocessing import InputSpec, warp_depth

WIDTH, HEIGHT = 1242, 375
P = np.array([[721.5, 0, 609.6, 44.9], [0, 721.5, 172.9, 0.2], [0, 0, 1, 0.003]])


# ---- points to pixels


def test_points_are_drawn_at_their_projection_with_their_z():
    z = np.array([5.0, 22.22, 70.0])
    points = backproject_pixels(np.array([[10.2, 300.4], [610, 180], [1200.4, 119.6]]), z, P)
    depth_m = sparse_depth(points, P, WIDTH, HEIGHT)
    assert (depth_m > 0).sum() == 3
    np.testing.assert_allclose(depth_m[[300, 180, 120], [10, 610, 1200]], z, rtol=1e-6)


def test_the_nearest_point_of_a_pixel_wins_in_any_order():
    pixels, z = np.tile([[600.0, 200.0]], (5, 1)), np.array([30.0, 7.0, 50.0, 7.5, 12.0])
    points = backproject_pixels(pixels, z, P)
    for order in (slice(None), slice(None, None, -1)):
        assert sparse_depth(points[order], P, WIDTH, HEIGHT)[200, 600] == np.float32(7)


def test_pixels_and_the_image_end_at_half_pixel_coordinates():
    inside = [[-0.49, -0.49], [WIDTH - 0.51, HEIGHT - 0.51], [-0.49, 100.0], [600.0, -0.49]]
    beyond = [[-0.51, 50], [WIDTH - 0.49, 50], [50, -0.51], [50, HEIGHT - 0.49]]
    points = backproject_pixels(np.array([*inside, *beyond]), np.full(8, 10.0), P)
    depth_m = sparse_depth(points, P, WIDTH, HEIGHT)
    assert (depth_m > 0).sum() == 4
    assert (depth_m[[0, -1, 100, 0], [0, -1, 0, 600]] > 0).all()


def test_points_behind_the_camera_or_not_finite_are_skipped():
    bad = np.array([[0, 0, -5], [1, 1, -0.001], [0, 0, 0], [np.nan, 0, 5], [0, np.inf, 5]])
    with np.errstate(all='raise'):
        assert not sparse_depth(bad, P, WIDTH, HEIGHT).any()
        assert not sparse_depth(np.zeros((0, 3)), P, WIDTH, HEIGHT).any()


# ---- against true depth


@pytest.fixture(scope='module')
def street():
    model = camera.KITTI.scaled(640, 192)
    return frame.make_frame(3, 4, model, lidar.Lidar())


def test_a_completed_synthetic_scan_matches_the_true_depth(street):
    pose = np.eye(4)
    pose[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    pose[:3, 3] = lidar.Lidar().position_m
    points = velo_to_camera(street.scan.points, pose)
    height, width = street.depth_m.shape
    completed = complete_depth(sparse_depth(points, street.camera.P, width, height))
    known = (completed > 0) & (street.depth_m > 0)
    error = np.abs(completed - street.depth_m)[known] / street.depth_m[known]
    assert np.median(error) < 0.004
    assert (error < 0.05).mean() > 0.95
    below = street.depth_m[height // 2 :] > 0
    assert known[height // 2 :][below].mean() > 0.9
    assert (completed[street.depth_m == 0] > 0).mean() < 0.02


def real_frame(data, frame_id):
    folder = data / 'training'
    names = ('image_2', 'calib', 'label_2', 'velodyne')
    source = kitti.KittiFolders(*(str(folder / name) for name in names))
    return kitti.list_kitti_frames(source, (frame_id,))[0]


def rays_of(files):
    calib = kitti_calib.read_calib(files.calib)
    points = velo_to_camera(scan_file.read_velodyne(files.velodyne), calib.cam_T_velo)
    return sparse_depth(points, calib.P2, WIDTH, HEIGHT)


def completed_depth(files):
    return depth_from_scan(kitti.read_source_image(files), WIDTH, HEIGHT)


@pytest.mark.parametrize('frame_id', ['000008', '000114'])
def test_completion_predicts_held_out_beams_of_a_real_scan(mono3d_data, frame_id):
    files = real_frame(mono3d_data, frame_id)
    scan, calib = scan_file.read_velodyne(files.velodyne), kitti_calib.read_calib(files.calib)
    beam = np.append(0, np.cumsum(np.diff(np.arctan2(scan[:, 1], scan[:, 0])) < -1.5))
    assert beam[-1] in (63, 64)
    points = velo_to_camera(scan, calib.cam_T_velo)
    all_rays = sparse_depth(points, calib.P2, WIDTH, HEIGHT)
    kept_rays = sparse_depth(points[beam % 5 != 2], calib.P2, WIDTH, HEIGHT)
    held_out = (kept_rays == 0) & (all_rays > 0) & ~occluded_rays(all_rays, 3)
    predicted = complete_depth(kept_rays)[held_out]
    assert held_out.sum() > 2000
    assert (predicted > 0).mean() > 0.8
    error = (
        np.abs(predicted - all_rays[held_out])[predicted > 0] / all_rays[held_out][predicted > 0]
    )
    assert np.median(error) < 0.01
    assert (error < 0.05).mean() > 0.88


def test_visible_rays_of_a_real_scan_keep_their_depth(mono3d_data):
    files = real_frame(mono3d_data, '000008')
    rays = rays_of(files)
    completed = completed_depth(files)
    visible = (rays > 0) & ~occluded_rays(rays, 3)
    assert (completed[visible] > 0).all()
    assert (np.abs(completed - rays)[visible] < 0.02 * rays[visible]).mean() > 0.95
    # the depth map agrees with the labelled cars to half a car's length
    cars = kitti.read_labels(files.label_2).to_objects(('Car',))
    for box, z in zip(cars.box_px.astype(int), cars.center_m[:, 2], strict=True):
        inside = completed[box[1] : box[3], box[0] : box[2]]
        assert abs(np.median(inside[inside > 0]) - z) < 3.5


@pytest.mark.parametrize('frame_id', ['000008', '000114'])
def test_a_real_map_is_unknown_far_from_rays(mono3d_data, frame_id):
    files = real_frame(mono3d_data, frame_id)
    rays, known = rays_of(files) > 0, completed_depth(files) > 0
    ray_distance_px = distance_transform_edt(~rays)
    assert ray_distance_px[known].max() < 10  # beams are 4 to 7 pixels apart
    rows = np.arange(HEIGHT)[:, None]
    highest = minimum_filter1d(np.where(rays.any(0), rays.argmax(0), HEIGHT), 21)
    assert not (known & (rows < highest - 3)).any()
    # large parts are far from rays: the sky, and holes below the highest rays
    assert (ray_distance_px > 10).mean() > 0.3
    assert ((ray_distance_px > 10) & (rows > highest)).sum() > 200


def edge_windows(files, rays):
    """Windows at the sides of labels with a depth gap between their rays, and the gap's ends."""
    labels = kitti.read_labels(files.label_2)
    labels = labels[labels.name != 'DontCare']
    corners = geometry.box_corners(labels.center_m, labels.size_hwl_m, labels.rotation_y)
    far_sides, boxes = corners[..., 2].max(1) + 0.5, labels.box_px.round().astype(int)
    for (left, top, right, bottom), far_side in zip(boxes, far_sides, strict=True):
        middle = (top + bottom) // 2  # below it, the road connects the object to its background
        for side in {left, right}.intersection(range(20, WIDTH - 20)):
            nearby = rays[max(top - 12, 0) : middle + 12, side - 14 : side + 14]
            near, far = nearby[(nearby > 0) & (nearby < far_side)], nearby[nearby >= far_side]
            if min(len(near), len(far)) >= 5 and far.min() - near.max() > 3:
                window = np.s_[max(top, 0) : middle, side - 8 : side + 8]
                yield window, 1.02 * near.max(), 0.98 * far.min()


def test_few_pixels_at_real_object_edges_lie_between_object_and_background(mono3d_data):
    completed, interpolated = [], []
    for frame_id in ('000008', '000010', '000011', '000114'):
        files = real_frame(mono3d_data, frame_id)
        rays, completed_m = rays_of(files), completed_depth(files)
        interpolator = LinearNDInterpolator(np.argwhere(rays), rays[rays > 0])
        interpolated_m = interpolator(*np.mgrid[:HEIGHT, :WIDTH])
        for window, low, high in edge_windows(files, rays):
            known = completed_m[window] > 0
            for samples, depth_m in ((completed, completed_m), (interpolated, interpolated_m)):
                inside = depth_m[window][known]
                samples.append((inside > low) & (inside < high))
    completed, interpolated = np.concatenate(completed), np.concatenate(interpolated)
    assert len(completed) > 10_000
    assert completed.mean() < 0.003
    assert interpolated.mean() > 0.05  # linear interpolation between rays fails this measure


# ---- files


def test_a_depth_file_stores_every_value_exactly(tmp_path):
    coded = np.arange(65535, dtype=np.uint16).reshape(257, 255)
    write_depth(tmp_path / '000000.png', coded.astype(np.float32) / 256)
    raw = cv2.imread(str(tmp_path / '000000.png'), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(raw, coded)
    depth_m = read_depth(tmp_path / '000000.png')
    assert depth_m.dtype == np.float32
    np.testing.assert_array_equal(depth_m, coded / 256)
    assert [path.name for path in tmp_path.iterdir()] == ['000000.png']


def test_a_warped_depth_file_keeps_its_depths(tmp_path):
    spec = InputSpec(640, 192)
    depth_m = np.random.default_rng(0).uniform(1, 120, (96, 320)).astype(np.float32)
    depth_m[:20] = 0
    write_depth(tmp_path / 'a.png', depth_m)
    read = read_depth(tmp_path / 'a.png')
    same = warp_depth(read, np.eye(3), spec)[:96, :320]
    np.testing.assert_allclose(same, depth_m, atol=1 / 512)
    twice = np.array([[2.0, 0, 0.5], [0, 2.0, 0.5], [0, 0, 1]])
    np.testing.assert_allclose(
        warp_depth(read, twice, spec), depth_m.repeat(2, 0).repeat(2, 1), atol=1 / 512
    )


def test_values_beyond_16_bits_are_written_as_unknown(tmp_path):
    depth_m = np.array([[MAX_DEPTH_M, 300.0, -1.0, np.nan, np.inf, 0.0, 255.9]], np.float32)
    with np.errstate(all='raise'):
        write_depth(tmp_path / 'a.png', depth_m)
    np.testing.assert_array_equal(read_depth(tmp_path / 'a.png')[0] > 0, [0, 0, 0, 0, 0, 0, 1])


def test_depth_files_store_metres_times_256(tmp_path, street):
    write_depth(tmp_path / 'a.png', street.depth_m)
    raw = cv2.imread(str(tmp_path / 'a.png'), cv2.IMREAD_UNCHANGED)
    known = street.depth_m < MAX_DEPTH_M
    np.testing.assert_array_equal(raw, np.where(known, np.round(street.depth_m * 256), 0))


def test_other_files_raise_data_error_with_their_name(tmp_path):
    cv2.imwrite(str(tmp_path / 'grey.png'), np.zeros((4, 4), np.uint8))
    cv2.imwrite(str(tmp_path / 'three.png'), np.zeros((4, 4, 3), np.uint16))
    (tmp_path / 'text.png').write_text('no image')
    (tmp_path / 'empty.png').touch()
    for name in ('grey', 'three', 'text', 'empty', 'missing'):
        with pytest.raises(kitti.DataError, match=f'{name}.png: .*16 bits'):
            read_depth(tmp_path / f'{name}.png')


@pytest.fixture
def folder(tmp_path):
    """Two small frames with scans of a wall 12 m away."""
    rng = np.random.default_rng(0)
    for name in ('image_2', 'calib', 'velodyne'):
        (tmp_path / name).mkdir()
    (tmp_path / 'calib.txt').write_text(
        'P2: 180 0 160 0 0 180 40 0 0 0 1 0\nR0_rect: 1 0 0 0 1 0 0 0 1\n'
        'Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 -0.3\n'
    )
    for frame_id in ('000000', '000001'):
        cv2.imwrite(str(tmp_path / f'image_2/{frame_id}.png'), np.zeros((96, 320, 3), np.uint8))
        side, up = rng.uniform(-10, 10, 20000), rng.uniform(-2, 0.5, 20000)
        scan = np.stack([np.full(20000, 12.3), side, up, side * 0], 1).astype(np.float32)
        (tmp_path / f'velodyne/{frame_id}.bin').write_bytes(scan.tobytes())
        (tmp_path / f'calib/{frame_id}.txt').write_text((tmp_path / 'calib.txt').read_text())
    return tmp_path


def frames_of(folder, **names):
    folders = {name: str(folder / name) for name in ('image_2', 'calib')}
    return read_images(kitti.KittiSource(kitti.KittiFolders(**folders, **names)))


def test_frame_depth_comes_from_the_file_else_from_the_scan(folder):
    (folder / 'depth_2').mkdir()
    write_depth(folder / 'depth_2/000001.png', np.full((96, 320), 33.0))
    folders = {name: str(folder / name) for name in ('velodyne', 'depth_2')}
    first, second = frames_of(folder, **folders)
    assert not first.depth.exists
    assert second.depth.location == str(folder / 'depth_2/000001.png')
    scanned = load_frame_depth(first, 320, 96)
    known = scanned > 0
    np.testing.assert_allclose(scanned[known], 12.0, rtol=1e-5)
    assert known[36:60, 12:-12].mean() > 0.99
    assert not known[:30].any()
    np.testing.assert_array_equal(load_frame_depth(second, 320, 96), 33.0)
    with pytest.raises(kitti.DataError, match=r'000001.png: 320x96 pixels, .* 320x97'):
        load_frame_depth(second, 320, 97)


def test_missing_depth_raises_data_error_naming_both_files(folder):
    with pytest.raises(kitti.DataError, match=r'depth_2/000000.png or velodyne/000000.bin'):
        load_frame_depth(frames_of(folder)[0], 320, 96)


def test_the_command_writes_missing_files_only(folder):
    out = folder / 'depth_2'
    main.main(['depth-maps', str(folder), str(out), '--workers', '0'])
    first, second = sorted(out.iterdir())
    expected = depth_from_scan(frames_of(folder, velodyne=str(folder / 'velodyne'))[1], 320, 96)
    np.testing.assert_allclose(read_depth(second), expected, atol=1 / 512)
    first.unlink()
    write_depth(second, np.full((96, 320), 5.0))
    main.main(['depth-maps', str(folder), str(out), '--workers', '0'])
    assert first.exists()
    assert (read_depth(second) == 5.0).all()


def test_the_command_names_a_missing_scan(folder, capsys):
    (folder / 'velodyne/000001.bin').unlink()
    with pytest.raises(SystemExit):
        main.main(['depth-maps', str(folder), str(folder / 'depth_2')])
    assert 'velodyne/000001.bin: no such scan' in capsys.readouterr().err
    (folder / 'some.txt').write_text('000000\n')
    some = ['--split', str(folder / 'some.txt'), '--workers', '0']
    main.main(['depth-maps', str(folder), str(folder / 'depth_2'), *some])
    assert [path.name for path in (folder / 'depth_2').iterdir()] == ['000000.png']
