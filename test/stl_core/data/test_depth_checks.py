"""Depth maps are held against LiDARs and labels; calib files without a LiDAR are refused."""

import logging

import numpy as np
import pytest
from kitti_scenes import HEIGHT, WIDTH, make_scenes
from small_stages import make_scenes_with_depth, plan

from stl_core.cli import main
from stl_core.data import depth_checks, depth_maps
from stl_core.data.frame_source import DataError, LazyArray, SourceImage
from stl_core.data.sources import kitti, kitti_calib

P2 = 'P2: 721.5 0 609.6 44.9 0 721.5 172.9 0.2 0 0 1 0.003\n'
RECT = 'R0_rect: 1 0 0 0 1 0 0 0 1\n'
VELO = '0 -1 0 0.1 0 0 -1 0.2 1 0 0 0.3'


@pytest.fixture(scope='module')
def drive(tmp_path_factory):
    """Six synthetic frames with scans."""
    root = tmp_path_factory.mktemp('drive')
    size = ['--size', '640x192', '--no-depth', '--workers', '0']
    main.main(['synthesize', str(root), '--frames', '6', '--seed', '4', *size])
    return root / 'training'


def test_depth_of_a_lidar_has_no_warning_and_agrees_with_the_labels(mono3d_data):
    folder = mono3d_data / 'training'
    scanned = tuple(path.stem for path in sorted((folder / 'velodyne').iterdir()))
    folders = kitti.folders_below(folder, labelled=True)
    source = kitti.KittiSource(folders, scanned)
    images = [source.read(each).images[0] for each in source.ids]
    statistics, warnings = depth_checks.check_depth(images)
    assert not warnings
    assert 0.45 < statistics.known_share < 0.65
    assert 8 < statistics.quantiles_m[1] < 16
    assert statistics.label_ratio == pytest.approx(0.96, abs=0.02)  # half a car nearer than it


def image_of(depth_m, labels=None):
    pixels = LazyArray('a.png', lambda: np.zeros((*depth_m.shape, 3), np.uint8))
    return SourceImage(
        'a', 'image_2', pixels, np.eye(3, 4), labels, depth=LazyArray('d', lambda: depth_m)
    )


@pytest.mark.parametrize(
    ('depth_m', 'message'),
    [
        (np.pad(np.full((2, 50), 9.0), ((98, 0), (0, 50))), '1.0% of the pixels'),
        (np.full((100, 100), 0.7), 'half of the depths are below 0.7 m'),
        (np.full((100, 100), 250.0), 'half of the depths are below 250.0 m'),
    ],
)
def test_depth_unlike_a_lidars_is_a_warning(depth_m, message):
    _, warnings = depth_checks.check_depth([image_of(depth_m)])
    assert len(warnings) == 1
    assert message in warnings[0]


def test_depth_in_another_unit_is_seen_at_the_labels(tmp_path):
    """PNGs of millimetres, read as metres * 256, are 1000 / 256 times too deep."""
    root = make_scenes_with_depth(tmp_path / 'scenes', frames=4)
    source = kitti.KittiSource(kitti.folders_below(root, labelled=True))
    images = [source.read(each).images[0] for each in source.ids]
    statistics, _ = depth_checks.check_depth(images)
    assert statistics.label_ratio == pytest.approx(1, abs=0.01)
    for path in sorted((root / 'depth_2').iterdir()):
        depth_m = depth_maps.read_depth(path)
        depth_maps.write_depth(path, depth_m * 1000 / 256)
    statistics, warnings = depth_checks.check_depth(images)
    assert statistics.label_ratio == pytest.approx(1000 / 256, rel=0.01)
    assert any("3.91 times the labels' depth" in warning for warning in warnings)


def test_a_teacher_does_not_train_on_empty_depth(tmp_path, capsys):
    root = make_scenes_with_depth(tmp_path / 'scenes', frames=2)
    for path in sorted((root / 'depth_2').iterdir()):
        depth_maps.write_depth(path, np.zeros((HEIGHT, WIDTH)))
    config = tmp_path / 'plan.yaml'
    config.write_text(str(plan(root, tmp_path / 'runs')))  # a dict is YAML
    with pytest.raises(SystemExit, match='2'):
        main.main(['train', str(config), '--stage', 'teacher'])
    assert 'no depth is known in any of 2 depth maps, first 000000' in capsys.readouterr().err


def test_the_command_reports_share_and_range(drive, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        main.main(['depth-maps', str(drive), str(tmp_path / 'out'), '--workers', '0'])
    maps = [depth_maps.read_depth(path) for path in sorted((tmp_path / 'out').iterdir())]
    share = np.median([(each > 0).mean() for each in maps])
    middle = np.median([np.median(each[each > 0]) for each in maps])
    text = f'6 depth maps, 0 of them kept; {share:.1%} of the pixels known, depth {middle:.1f} m'
    assert text in caplog.text
    assert 'WARNING' not in caplog.text


# ---- the pose of the LiDAR


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize('key', ['Tr_velo_to_cam', 'Tr_velo_cam', 'Tr'])
def test_the_pose_of_a_lidar_has_the_keys_of_three_benchmarks(tmp_path, key):
    calib = kitti_calib.read_calib(write(tmp_path / 'a.txt', f'{P2}{key}: {VELO}\n'))
    np.testing.assert_array_equal(calib.cam_T_velo[:3].ravel(), list(map(float, VELO.split())))


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        ('', 'no line "Tr_velo_to_cam" with 12 numbers, the pose of the LiDAR'),
        (f'Tr_velo_to_cam_0: {VELO}\n', 'LiDAR .it has Tr_velo_to_cam_0.'),
        (f'Tr_lidar_to_cam: {VELO}\n', 'LiDAR .it has Tr_lidar_to_cam.'),
        (f'Tr_imu_to_velo: {VELO}\n', 'the pose of the LiDAR$'),
    ],
)
def test_scans_without_the_pose_of_the_lidar_are_refused(tmp_path, capsys, lines, message):
    path = write(tmp_path / 'a.txt', P2 + RECT + lines)
    calib = kitti_calib.read_calib(path)
    assert calib.cam_T_velo is None
    with pytest.raises(DataError, match=f'a.txt: .*{message}'):
        kitti_calib.require_lidar_pose(calib, path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            f'Tr_velo_to_cam: {VELO.replace("0.3", "nan")}',
            'Tr_velo_to_cam: expected finite numbers',
        ),
        (f'Tr_velo_to_cam: {VELO.replace("-1", "nan")}', 'Tr_velo_to_cam: .* no rotation'),
        ('Tr_velo_to_cam: ' + '0 ' * 12, 'Tr_velo_to_cam: .* no rotation'),
        ('Tr_velo_to_cam: 1 0 0 0 1 0 0 0 1', 'expected 12 numbers in Tr_velo_to_cam, got 9'),
        (f'Tr_velo_to_cam: {VELO}\nR0_rect: 9 9 9 9 9 9 9 9 9', 'R0_rect: .* no rotation'),
    ],
)
def test_a_pose_that_is_none_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=f'a.txt: {message}'):
        kitti_calib.read_calib(write(tmp_path / 'a.txt', f'{P2}{text}\n'))


def test_depth_maps_need_the_pose_of_the_lidar(drive, tmp_path, capsys):
    root = make_scenes(tmp_path / 'scenes', frames=1)
    (root / 'velodyne').mkdir()
    scan = (drive / 'velodyne/000000.bin').read_bytes()
    (root / 'velodyne/000000.bin').write_bytes(scan)
    kept = [line for line in (root / 'calib/000000.txt').read_text().splitlines() if 'P2' in line]
    (root / 'calib/000000.txt').write_text('\n'.join(kept))
    with pytest.raises(SystemExit, match='2'):
        main.main(['depth-maps', str(root), str(tmp_path / 'out')])
    assert 'calib/000000.txt: no line "Tr_velo_to_cam"' in capsys.readouterr().err
