"""A bag answered without ROS: the same bytes each time, and the AP of `stl evaluate`."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from kitti_scenes import P2, make_scenes

from mono3d_ros.bag_evaluation import evaluate_bag, lidar_check, pictures
from mono3d_ros.bags import kitti_to_bag, recorded_boxes
from mono3d_ros.bags.bag_io import BagReader
from mono3d_ros.bags.drive_reader import DriveQuery, DriveReader
from mono3d_ros.messages import images, primitives
from mono3d_ros.messages.rectification import passthrough_image
from stl_core.cli import main
from stl_core.data.sources import kitti
from stl_core.geometry import box_corners, project_points
from stl_core.inference import model_file
from stl_core.inference.predictor import load_predictor
from stl_core.preprocessing import InputSpec
from stl_core.types import Objects3D

pytestmark = pytest.mark.usefixtures('one_thread')

SPEC = model_file.ModelSpec(
    classes=('Car', 'Pedestrian', 'Cyclist'),
    input=InputSpec(160, 64),
    detector='monodle',
    options={'backbone': 'mobilenetv4_conv_small', 'neck': 'light', 'head_width': 8},
)
#: LiDAR that stands where the camera is: x forward to z, y left to -x, z up to -y.
TURNED = '0 -1 0 0 0 0 -1 0 1 0 0 0'
FRAMES, LEAST = 4, 0.2


@pytest.fixture(scope='module')
def student(tmp_path_factory):
    """Make a student that has learnt nothing, but sees boxes of all scores wherever it looks."""
    torch.manual_seed(0)
    detector = model_file.build_detector(SPEC)
    for name in ('heatmap', 'heading'):
        torch.nn.init.normal_(detector.heads[name][-1].weight, std=30.0)
    for name, bias in {'depth': (-4.6, 0.0), 'size_2d': (7.0, 6.0)}.items():
        detector.heads[name][-1].bias.data = torch.tensor(bias)
    path = tmp_path_factory.mktemp('student') / 'student.safetensors'
    model_file.save_model(path, detector, SPEC)
    return path


@pytest.fixture(scope='module')
def scenes(tmp_path_factory, student):
    """Label frames with half of what the student sees, moved a little, and scan those boxes."""
    root = make_scenes(tmp_path_factory.mktemp('data') / 'kitti', frames=FRAMES)
    (root / 'velodyne').mkdir()
    predictor = load_predictor(student, 'cpu')
    for path in sorted((root / 'label_2').iterdir()):
        image = kitti.read_image(root / f'image_2/{path.stem}.png')
        (found,) = predictor([image], [P2])
        half = kitti.to_labels(found[::2], SPEC.classes)
        away = 1 + np.random.default_rng(0).uniform(-0.03, 0.03, (len(half), 1))
        none = np.zeros(len(half))
        half = replace(half, center_m=half.center_m * away, truncated=none, occluded=none)
        lines = kitti.format_results(half).splitlines()
        path.write_text(''.join(f'{line.rsplit(" ", 1)[0]}\n' for line in lines))
        scan = surface(kitti.read_labels(path).to_objects(SPEC.classes))
        in_velo = np.stack([scan[:, 2], -scan[:, 0], -scan[:, 1], scan[:, 0] * 0], 1)
        in_velo.astype(np.float32).tofile(root / f'velodyne/{path.stem}.bin')
        calib = root / f'calib/{path.stem}.txt'
        calib.write_text(calib.read_text() + f'Tr_velo_to_cam: {TURNED}\n')
    return root


@pytest.fixture(scope='module')
def bag(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp('bags') / 'drive'
    assert kitti_to_bag.main([str(scenes), str(out)]) == 0
    return out


@pytest.fixture(scope='module')
def bare_bag(scenes, tmp_path_factory):
    """Make the same drive without labels."""
    out = tmp_path_factory.mktemp('bare')
    for name in ('image_2', 'calib', 'velodyne'):
        (out / 'kitti').mkdir(exist_ok=True)
        (out / 'kitti' / name).symlink_to(scenes / name)
    assert kitti_to_bag.main([str(out / 'kitti'), str(out / 'bag')]) == 0
    return out / 'bag'


@pytest.fixture(scope='module')
def evaluated(bag, student, tmp_path_factory):
    out = tmp_path_factory.mktemp('out') / 'drive'
    assert run(bag, out, student, '--score', LEAST, '--pictures', 2) == 0
    return out


def run(bag, out, student, *options):
    arguments = [bag, out, '--model', student, '--device', 'cpu', *options]
    return evaluate_bag.main([str(each) for each in arguments])


def surface(objects):
    """Points on the faces that the camera sees, by the slow way: rays cut with triangles."""
    eye = -np.linalg.solve(P2[:, :3], P2[:, 3])
    u, v = np.meshgrid(range(0, 320, 4), range(20, 96, 3))
    pixels = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], 1)
    way = pixels @ np.linalg.inv(P2[:, :3]).T
    faces = [(0, 1, 5, 4), (3, 2, 6, 7), (0, 3, 7, 4), (1, 2, 6, 5), (0, 1, 2, 3), (4, 5, 6, 7)]
    boxes = box_corners(objects.center_m, objects.size_hwl_m, objects.rotation_y)
    triangles = [
        box[list(three)]
        for box in boxes
        for a, b, c, d in faces
        for three in ((a, b, c), (a, c, d))
    ]
    along = np.min([cut(eye, way, each) for each in triangles], 0)
    hit = np.isfinite(along)
    return eye + along[hit, None] * way[hit]


def cut(eye, way, triangle):
    """Where rays meet a triangle, by three equations; inf where they do not."""
    a, b, c = triangle
    M = np.stack(np.broadcast_arrays(b - a, c - a, -way), -1)
    M[np.abs(np.linalg.det(M)) < 1e-12] = np.nan
    with np.errstate(invalid='ignore'):
        s, t, along = np.linalg.solve(M, np.broadcast_to(eye - a, way.shape)[..., None])[..., 0].T
        inside = (s >= 0) & (t >= 0) & (s + t <= 1) & (along > 0)
    return np.where(inside, along, np.inf)


def cars(z, yaw=0.5, x=1.0):
    """One car a depth, its 2D box that of its corners."""
    count = len(z)
    center = np.stack([np.full(count, x), np.full(count, 0.5), np.asarray(z, float)], 1)
    size, yaws = np.tile([1.5, 1.6, 3.9], (count, 1)), np.full(count, yaw)
    pixels, _ = project_points(box_corners(center, size, yaws), P2)
    return Objects3D(
        class_id=np.zeros(count, int),
        score=np.ones(count),
        center_m=center,
        size_hwl_m=size,
        rotation_y=yaws,
        box_px=np.concatenate([pixels.min(1), pixels.max(1)], 1),
        depth_sigma_m=np.ones(count),
    )


@pytest.mark.parametrize('yaw', [0.0, 0.5, -1.2, np.pi / 2])
def test_a_box_is_as_far_off_as_it_was_moved(yaw):
    scan = surface(cars([12.0], yaw))
    exact = lidar_check.depth_errors(cars([12.0], yaw), scan, P2)
    np.testing.assert_allclose(exact, 0.0, atol=1e-9)
    for shift in (-1.0, 0.5, 3.0):
        (error,) = lidar_check.depth_errors(cars([12.0 + shift], yaw), scan, P2)
        # rays that slant meet a moved face a little elsewhere
        assert error == pytest.approx(shift, abs=0.25 + 0.1 * abs(shift))


def test_what_hides_a_box_is_not_taken_for_it():
    scan = surface(cars([10.0, 20.0]))
    near, far = lidar_check.depth_errors(cars([10.0, 20.0]), scan, P2)
    assert near == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(far)
    sparse = scan[: lidar_check.MIN_POINTS - 1]
    assert np.isnan(lidar_check.depth_errors(cars([10.0]), sparse, P2)).all()
    assert lidar_check.depth_errors(cars([]), scan, P2).shape == (0,)


def test_errors_are_told_by_class_and_distance():
    told = lidar_check.summarize_errors(
        np.array([0, 0, 0, 1]),
        np.array([10, 30, 50, 5.0]),
        np.array([1, -3, np.nan, np.nan]),
        'ab',
    )
    near, _, far, whole = told['a']
    assert (near['checked'], near['median_error_m'], near['share_within_1_m']) == (1, 1.0, 1.0)
    assert (far['boxes'], far['checked'], far['median_error_m']) == (1, 0, None)
    assert (whole['boxes'], whole['checked'], whole['median_abs_error_m']) == (3, 2, 2.0)
    assert told['b'][-1]['p90_abs_error_m'] is None


def test_ap_is_that_of_stl_evaluate(evaluated, scenes, student, tmp_path):
    told = tmp_path / 'ap.json'
    main.main(['evaluate', str(student), str(scenes), '--device', 'cpu', '--json', str(told)])
    ours = figures(evaluated)
    assert ours['ap'] == json.loads(told.read_text())['ap']
    assert ours['labelled_frames'] == ours['scanned_frames'] == FRAMES
    metrics = ours['ap']['Pedestrian']
    assert 5 < metrics['bbox']['AP40']['strict'][2] < 100
    assert 0 < metrics['3d']['AP40']['loose'][2] < 100
    # precision is read at every score, but only what is sure is sent
    assert 0 < ours['depth_error']['Pedestrian']['matched']
    whole = ours['lidar']['classes']['Pedestrian'][-1]
    assert whole['median_abs_error_m'] < 0.03 * 13  # half of the boxes are where the scan is
    assert 0 < whole['checked'] <= whole['boxes'] == ours['boxes']['Pedestrian']


def figures(out):
    return json.loads((out / 'figures.json').read_text())


def test_answers_are_those_of_the_pipeline(evaluated, bag, student):
    predictor = load_predictor(student, 'cpu')
    with BagReader(bag) as reader, BagReader(evaluated / 'answers') as answers:
        assert set(answers.topics) == {
            '/camera/camera_info',
            '/detector/detections',
            '/detector/markers',
            '/tf',
        }
        said = {topic: [] for topic in answers.topics}
        for message in answers.messages():
            said[message.topic].append((message.recorded_ns, answers.decode(message)))
        total = 0
        for number, sight in enumerate(DriveReader(reader, DriveQuery())):
            frame = images.to_frame(sight.image, sight.info, 'camera', passthrough_image)
            (found,) = predictor([frame.image], [frame.P])
            sent = found[found.score >= LEAST]
            stamp, array = said['/detector/detections'][number]
            assert stamp == frame.stamp_ns == primitives.header_stamp_ns(array.header)
            assert [each.results[0].hypothesis.score for each in array.detections] == list(
                sent.score
            )
            boxes = recorded_boxes.boxes_from_markers(said['/detector/markers'][number][1])
            assert len(boxes.labels) == len(sent)
            total += len(sent)
    assert total > 0
    assert sum(figures(evaluated)['boxes'].values()) == total


def files_of(out, *names):
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for name in names
        for p in sorted((out / name).rglob('*') if (out / name).is_dir() else [out / name])
        if p.is_file()
    }


def test_the_same_bag_again_makes_the_same_bytes(bag, evaluated, student, tmp_path):
    assert run(bag, tmp_path / 'drive', student, '--score', LEAST, '--pictures', 2) == 0
    same = ('answers', 'figures.json', 'pictures', 'labels', 'charts/lidar.png')
    one, two = files_of(evaluated, *same), files_of(tmp_path / 'drive', *same)
    assert one == two
    assert {'answers/answers.mcap', 'figures.json', 'labels/oracle.csv'} < set(one)


def test_answers_with_a_copy_of_the_drive_are_a_drive(bare_bag, student, tmp_path):
    options = ('--storage', 'sqlite3', '--copy', '--pictures', 0)
    for place in ('one', 'two'):
        assert run(bare_bag, tmp_path / place / 'out', student, *options) == 0
    one, two = (files_of(tmp_path / place / 'out', 'answers') for place in ('one', 'two'))
    assert one == two
    assert 'answers/answers.db3' in one
    scenes = list(pictures.read_scenes(tmp_path / 'one/out/answers'))
    assert len(scenes) == FRAMES
    assert all(len(each.points_m) for each in scenes)


def test_the_report_is_one_small_file_that_needs_no_other(evaluated):
    text = (evaluated / 'report.html').read_text()
    assert len(text) < 3_000_000
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(sources) >= 2 + 4  # pictures and charts
    assert all(each.startswith(('data:image/png;', 'data:image/jpeg;')) for each in sources)
    assert 'http' not in re.sub(r'base64,[^"]*', '', text)
    assert 'Against the labels' in text
    timing = json.loads((evaluated / 'timing.json').read_text())
    assert timing['images'] == FRAMES
    assert set(timing['stages_ms']) == {'decode', 'inference', 'postprocess', 'total'}
    assert len(list((evaluated / 'pictures').iterdir())) == 2


def test_labels_come_from_a_folder_or_the_bag_or_nowhere(
    bare_bag, scenes, student, evaluated, tmp_path, capsys
):
    options = ('--pictures', 0, '--score', LEAST)
    labels = scenes / 'label_2'
    assert run(bare_bag, tmp_path / 'a', student, '--labels', labels, *options) == 0
    assert figures(tmp_path / 'a')['ap'] == figures(evaluated)['ap']
    (few := tmp_path / 'few').mkdir()
    assert run(bare_bag, tmp_path / 'b', student, '--labels', few, *options) == 2
    assert f'0 label files, but {bare_bag} has {FRAMES} images' in capsys.readouterr().err
    assert run(bare_bag, tmp_path / 'c', student, *options) == 0
    told = figures(tmp_path / 'c')
    assert (told['ap'], told['labelled_frames'], told['scanned_frames']) == (None, 0, FRAMES)
    assert told['lidar'] == figures(evaluated)['lidar']
    assert run(bare_bag, tmp_path / 'd', student, '--labels', 'topic') == 2
    assert 'no labels on /camera/ground_truth/labels' in capsys.readouterr().err


def test_several_bags_side_by_side_and_together(bare_bag, student, tmp_path, capsys):
    many, out = tmp_path / 'many', tmp_path / 'out'
    many.mkdir()
    for name in ('a', 'b'):
        (many / name).symlink_to(bare_bag)
    (many / 'broken.mcap').write_bytes(b'no bag')
    assert run(many, out, student, '--jobs', 2, '--pictures', 0) == 2
    told = capsys.readouterr().err.strip()
    assert 'broken.mcap: not a readable bag' in told
    assert '\n' not in told
    one, all_of_them = figures(out / 'a'), figures(out)
    assert all_of_them['bags'] == ['a', 'b']
    assert all_of_them['frames'] == {'camera': 2 * FRAMES}
    assert all_of_them['boxes'] == {name: 2 * count for name, count in one['boxes'].items()}
    assert files_of(out / 'a', 'answers') == files_of(out / 'b', 'answers')
    assert not (out / 'broken.mcap').exists()


def test_bad_wishes_are_one_line_code_2_and_nothing_half_written(bag, student, tmp_path, capsys):
    (tmp_path / 'there').mkdir()
    (tmp_path / 'x.safetensors').write_bytes(b'x')
    before = sorted(tmp_path.iterdir())
    for given, model, options, message in (
        (tmp_path / 'none', student, [], 'none: no such bag'),
        (tmp_path / 'there', student, [], 'this folder has no metadata.yaml'),
        (bag, tmp_path / 'no.safetensors', [], 'no.safetensors'),
        (bag, tmp_path / 'x.safetensors', [], 'x.safetensors: not a readable student'),
        (bag, student, ['--camera', 'rear'], 'no camera rear; the bag has camera'),
        (bag, student, ['--score', 2], '--score 2: parameter score_threshold'),
        (bag, student, ['--max-apart', -1], '--max-apart -1: parameter max_apart_s'),
        (bag, student, ['--pictures', -1], '--pictures -1: expected 0 or more'),
        (bag, student, ['--jobs', 0], '--jobs 0: expected 1 or more'),
        (bag, student, ['--labels', tmp_path / 'nowhere'], 'nowhere: 0 label files'),
    ):
        assert run(given, tmp_path / 'out', model, *options) == 2
        told = capsys.readouterr().err.strip()
        assert message in told
        assert '\n' not in told
        assert sorted(tmp_path.iterdir()) == before
    assert run(bag, tmp_path / 'there', student) == 2
    assert 'there: exists already' in capsys.readouterr().err
