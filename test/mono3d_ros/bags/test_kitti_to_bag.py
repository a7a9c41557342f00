import cv2
import numpy as np
import pytest
from kitti_scenes import P2, make_scenes

from mono3d_ros.bag_evaluation import pictures
from mono3d_ros.bags import bag_to_kitti, kitti_to_bag
from mono3d_ros.bags.bag_io import BagReader
from stl_core.data.sources import kitti
from stl_core.geometry import box_corners


@pytest.fixture
def scenes(tmp_path):
    return make_scenes(tmp_path / 'kitti', frames=3)


def convert(*arguments):
    return kitti_to_bag.main([str(each) for each in arguments])


def add_scans(root, count=3):
    (root / 'velodyne').mkdir()
    for i in range(count):
        points = np.random.default_rng(i).normal(size=(50, 4)).astype(np.float32)
        (root / f'velodyne/{i:06d}.bin').write_bytes(points.tobytes())


@pytest.mark.parametrize('compressed', [[], ['--compressed']])
def test_frames_of_the_bag_equal_the_input(scenes, tmp_path, compressed):
    assert convert(scenes, tmp_path / 'bag', *compressed) == 0
    read = list(pictures.read_scenes(tmp_path / 'bag'))
    assert len(read) == 3
    stamps = [scene.frame.stamp_ns for scene in read]
    assert np.diff(stamps).tolist() == [100_000_000] * 2
    for i, scene in enumerate(read):
        image = cv2.imread(str(scenes / f'image_2/{i:06d}.png'))[..., ::-1]
        np.testing.assert_array_equal(scene.frame.image, image)
        np.testing.assert_allclose(scene.frame.P, P2, atol=1e-6)  # the fourth column too
        assert scene.frame.frame_id == 'camera_optical'
        labels = kitti.read_labels(scenes / f'label_2/{i:06d}.txt')
        box = box_corners(labels.center_m, labels.size_hwl_m, labels.rotation_y)
        assert len(scene.truth.edges_m) == len(labels)
        np.testing.assert_allclose(scene.truth.edges_m.min(1), box.min(1), atol=1e-3)
        np.testing.assert_allclose(scene.truth.edges_m.max(1), box.max(1), atol=1e-3)


def test_scans_are_written_unchanged_and_transform_to_the_camera_frame(scenes, tmp_path):
    add_scans(scenes)
    for path in (scenes / 'calib').iterdir():
        # x forward to z, y left to -x, z up to -y
        cam_T_velo = '0 -1 0 0.1 0 0 -1 0.2 1 0 0 0.3'
        path.write_text(path.read_text() + f'Tr_velo_to_cam: {cam_T_velo}\n')
    assert convert(scenes, tmp_path / 'bag') == 0
    with BagReader(tmp_path / 'bag') as bag:
        cloud = bag.decode(next(bag.messages(['/points'])))
        tf = bag.decode(next(bag.messages(['/tf']))).transforms[0]
    assert [field.name for field in cloud.fields] == ['x', 'y', 'z', 'intensity']
    assert (cloud.width, cloud.point_step) == (50, 16)
    raw = (scenes / 'velodyne/000000.bin').read_bytes()
    assert cloud.data.tobytes() == raw
    assert (tf.header.frame_id, tf.child_frame_id) == ('velodyne', 'camera_optical')
    points = np.frombuffer(raw, np.float32).reshape(-1, 4)[:, :3]
    expected = np.stack([-points[:, 1], -points[:, 2], points[:, 0]], 1) + [0.1, 0.2, 0.3]
    scene = next(iter(pictures.read_scenes(tmp_path / 'bag')))
    np.testing.assert_allclose(scene.points_m, expected, atol=1e-5)


def test_conversion_of_frames_is_deterministic(scenes, tmp_path):
    for folder in ('one', 'two'):
        assert convert(scenes, tmp_path / folder / 'bag') == 0
    one, two = (next((tmp_path / p / 'bag').glob('*.mcap')).read_bytes() for p in ('one', 'two'))
    assert one == two


def test_options_select_names_rate_and_frames(scenes, tmp_path):
    options = ('--ids', '000002', '--camera-ns', 'front', '--frame-id', 'f', '--rate', '4')
    assert convert(scenes, tmp_path / 'bag', *options) == 0
    with BagReader(tmp_path / 'bag') as bag:
        assert '/front/image_raw' in bag.topics
        messages = list(bag.messages(['/front/image_raw']))
        assert len(messages) == 1
        assert bag.decode(messages[0]).header.frame_id == 'f'


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda r: (r / 'calib/000001.txt').unlink(), 'calib/000001.txt: no such file'),
        (lambda r: (r / 'calib/000001.txt').write_text('P2: 1'), 'expected a line "P2:" with 12'),
        (lambda r: (r / 'label_2/000001.txt').unlink(), 'label_2/000001.txt: no such file'),
        (lambda r: (r / 'label_2/000001.txt').write_text('Car 1'), '000001.txt:1: expected 15'),
        (lambda r: (r / 'image_2/000001.png').write_bytes(b'x'), 'not a readable PNG or JPEG'),
    ],
)
def test_bad_input_exits_with_code_2_after_one_line_and_writes_nothing(
    scenes, tmp_path, capsys, damage, message
):
    damage(scenes)
    (tmp_path / 'out').mkdir()
    assert convert(scenes, tmp_path / 'out/bag') == 2
    stderr = capsys.readouterr().err.strip()
    assert message in stderr
    assert '\n' not in stderr
    assert list((tmp_path / 'out').iterdir()) == []


def test_missing_root_existing_bag_and_zero_rate_are_errors(scenes, tmp_path, capsys):
    assert convert(tmp_path / 'nowhere', tmp_path / 'bag') == 2
    assert 'nowhere/image_2: no such file or folder' in capsys.readouterr().err
    (tmp_path / 'bag').mkdir()
    assert convert(scenes, tmp_path / 'bag') == 2
    assert 'exists already' in capsys.readouterr().err
    assert convert(scenes, tmp_path / 'other', '--rate', '0') == 2
    assert 'rate must be above 0' in capsys.readouterr().err


def test_real_frames(mono3d_data, tmp_path):
    assert convert(mono3d_data / 'training', tmp_path / 'bag', '--ids', '000008', '000010') == 0
    for scene in pictures.read_scenes(tmp_path / 'bag'):
        assert scene.frame.image.shape == (375, 1242, 3)
        assert len(scene.points_m) > 100_000
        # the LiDAR hits the nearest car of the image: many points lie in its box
        near = scene.truth.edges_m[scene.truth.edges_m[..., 2].mean(1).argsort()][1]
        low, high = near.min(0), near.max(0)
        inside = ((scene.points_m > low) & (scene.points_m < high)).all(1)
        assert inside.sum() > 500


def test_ctrl_c_after_the_bag_is_written_does_not_deny_it(scenes, tmp_path, monkeypatch, capsys):
    def interrupted(text):
        raise KeyboardInterrupt

    monkeypatch.setattr(kitti_to_bag, 'print', interrupted, raising=False)
    monkeypatch.setattr(bag_to_kitti, 'print', interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        convert(scenes, tmp_path / 'bag')
    with pytest.raises(KeyboardInterrupt):
        bag_to_kitti.main([f'{tmp_path}/bag', f'{tmp_path}/frames'])
    assert (tmp_path / 'bag/metadata.yaml').exists()
    assert (tmp_path / 'frames/frames.csv').exists()
    assert capsys.readouterr().err == ''
