"""evaluate_bag: deterministic output, AP equal to `stl evaluate`, and the LiDAR check."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_metric
from kitti_scenes import P2, make_scenes
from worker_jobs import wait_for

from mono3d_ros.bag_evaluation import evaluate_bag, lidar_check, pictures
from mono3d_ros.bags import kitti_to_bag, recorded_boxes
from mono3d_ros.bags.bag_io import BagReader
from mono3d_ros.bags.drive_query import DriveQuery
from mono3d_ros.bags.drive_reader import DriveReader
from mono3d_ros.messages import images, primitives
from mono3d_ros.messages.rectification import Rectifier
from stl_core.cli import main
from stl_core.data.sources import kitti
from stl_core.evaluation.metrics import METRICS
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
#: Tr_velo_to_cam of a LiDAR at the camera: x forward to z, y left to -x, z up to -y.
CAM_T_VELO = '0 -1 0 0 0 0 -1 0 1 0 0 0'
FRAMES, MIN_SCORE = 4, 0.2


@pytest.fixture(scope='module')
def model_path(tmp_path_factory):
    """Create an untrained model that detects boxes of all scores all over the image."""
    torch.manual_seed(0)
    detector = model_file.build_detector(SPEC)
    for name in ('heatmap', 'heading'):
        torch.nn.init.normal_(detector.heads[name][-1].weight, std=30.0)
    for name, bias in {'depth': (-4.6, 0.0), 'size_2d': (7.0, 6.0)}.items():
        detector.heads[name][-1].bias.data = torch.tensor(bias)
    path = tmp_path_factory.mktemp('model') / 'model.safetensors'
    model_file.save_model(path, detector, SPEC)
    return path


@pytest.fixture(scope='module')
def scenes(tmp_path_factory, model_path):
    """
    Label frames with half of the model's detections, moved slightly, and scan those boxes.

    Most 2D boxes are the projections of the 3D boxes, as `stl evaluate` requires; the others are
    those that the untrained model detected, or else its AP of 2D boxes were 0.
    """
    root = make_scenes(tmp_path_factory.mktemp('data') / 'kitti', frames=FRAMES)
    (root / 'velodyne').mkdir()
    predictor = load_predictor(model_path, 'cpu')
    for path in sorted((root / 'label_2').iterdir()):
        image = kitti.read_image(root / f'image_2/{path.stem}.png')
        (detections,) = predictor([image], [P2])
        labels = kitti.to_labels(detections[::2], SPEC.classes)
        factor = 1 + np.random.default_rng(0).uniform(-0.03, 0.03, (len(labels), 1))
        zeros = np.zeros(len(labels))
        labels = replace(
            labels, center_m=labels.center_m * factor, truncated=zeros, occluded=zeros
        )
        projected = np.arange(len(labels)) % 3 > 0
        labels.box_px[projected] = projections(labels)[projected]
        lines = kitti.format_results(labels).splitlines()
        path.write_text(''.join(f'{line.rsplit(" ", 1)[0]}\n' for line in lines))
        scan = surface(kitti.read_labels(path).to_objects(SPEC.classes))
        in_velo = np.stack([scan[:, 2], -scan[:, 0], -scan[:, 1], scan[:, 0] * 0], 1)
        in_velo.astype(np.float32).tofile(root / f'velodyne/{path.stem}.bin')
        calib = root / f'calib/{path.stem}.txt'
        calib.write_text(calib.read_text() + f'Tr_velo_to_cam: {CAM_T_VELO}\n')
    return root


def projections(labels):
    """Return the (N, 4) projections of the 3D boxes, clipped to the picture."""
    corners = box_corners(labels.center_m, labels.size_hwl_m, labels.rotation_y)
    pixels = np.stack([project_points(each, P2)[0] for each in corners])
    return np.clip(np.concatenate([pixels.min(1), pixels.max(1)], 1), 0, [319, 95, 319, 95])


@pytest.fixture(scope='module')
def bag(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp('bags') / 'drive'
    assert kitti_to_bag.main([str(scenes), str(out)]) == 0
    return out


@pytest.fixture(scope='module')
def bare_bag(scenes, tmp_path_factory):
    """Write the same drive to a bag without labels."""
    out = tmp_path_factory.mktemp('bare')
    for name in ('image_2', 'calib', 'velodyne'):
        (out / 'kitti').mkdir(exist_ok=True)
        (out / 'kitti' / name).symlink_to(scenes / name)
    assert kitti_to_bag.main([str(out / 'kitti'), str(out / 'bag')]) == 0
    return out / 'bag'


@pytest.fixture(scope='module')
def evaluated(bag, model_path, tmp_path_factory):
    out = tmp_path_factory.mktemp('out') / 'drive'
    assert run(bag, out, model_path, '--score', MIN_SCORE, '--pictures', 2) == 0
    return out


def run(bag, out, model_path, *options):
    arguments = [bag, out, '--model', model_path, '--device', 'cpu', *options]
    return evaluate_bag.main([str(each) for each in arguments])


def surface(objects):
    """Return points on the visible faces of boxes, by intersecting rays with triangles."""
    origin_m = -np.linalg.solve(P2[:, :3], P2[:, 3])
    u, v = np.meshgrid(range(0, 320, 4), range(20, 96, 3))
    pixels = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], 1)
    directions = pixels @ np.linalg.inv(P2[:, :3]).T
    faces = [(0, 1, 5, 4), (3, 2, 6, 7), (0, 3, 7, 4), (1, 2, 6, 5), (0, 1, 2, 3), (4, 5, 6, 7)]
    boxes = box_corners(objects.center_m, objects.size_hwl_m, objects.rotation_y)
    triangles = [
        box[list(three)]
        for box in boxes
        for a, b, c, d in faces
        for three in ((a, b, c), (a, c, d))
    ]
    t = np.min([intersect(origin_m, directions, each) for each in triangles], 0)
    hit = np.isfinite(t)
    return origin_m + t[hit, None] * directions[hit]


def intersect(origin_m, directions, triangle):
    """Return t of origin + t direction on a triangle, by a 3x3 system; inf for a miss."""
    a, b, c = triangle
    M = np.stack(np.broadcast_arrays(b - a, c - a, -directions), -1)
    M[np.abs(np.linalg.det(M)) < 1e-12] = np.nan
    with np.errstate(invalid='ignore'):
        right_side = np.broadcast_to(origin_m - a, directions.shape)[..., None]
        u, v, t = np.linalg.solve(M, right_side)[..., 0].T
        inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
    return np.where(inside, t, np.inf)


def cars(z, yaw=0.5, x=1.0):
    """Return one car per depth; its 2D box encloses the projected corners."""
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
def test_lidar_error_is_the_shift_of_the_box(yaw):
    scan = surface(cars([12.0], yaw))
    exact = lidar_check.depth_errors(cars([12.0], yaw), scan, P2)
    np.testing.assert_allclose(exact, 0.0, atol=1e-9)
    for shift in (-1.0, 0.5, 3.0):
        (error,) = lidar_check.depth_errors(cars([12.0 + shift], yaw), scan, P2)
        # oblique rays hit a shifted face at a slightly different point
        assert error == pytest.approx(shift, abs=0.25 + 0.1 * abs(shift))


def test_occluding_boxes_and_sparse_points_give_no_error():
    scan = surface(cars([10.0, 20.0]))
    near, far = lidar_check.depth_errors(cars([10.0, 20.0]), scan, P2)
    assert near == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(far)
    sparse = scan[: lidar_check.MIN_POINTS - 1]
    assert np.isnan(lidar_check.depth_errors(cars([10.0]), sparse, P2)).all()
    assert lidar_check.depth_errors(cars([]), scan, P2).shape == (0,)


def test_lidar_errors_are_summarised_by_class_and_distance():
    summary = lidar_check.summarize_errors(
        np.array([0, 0, 0, 1]),
        np.array([10, 30, 50, 5.0]),
        np.array([1, -3, np.nan, np.nan]),
        'ab',
    )
    near, _, far, total = summary['a']
    assert (near['checked'], near['median_error_m'], near['share_within_1_m']) == (1, 1.0, 1.0)
    assert (far['boxes'], far['checked'], far['median_error_m']) == (1, 0, None)
    assert (total['boxes'], total['checked'], total['median_abs_error_m']) == (3, 2, 2.0)
    assert summary['b'][-1]['p90_abs_error_m'] is None


def test_ap_equals_that_of_stl_evaluate(evaluated, scenes, model_path, tmp_path):
    path = tmp_path / 'ap.json'
    main.main(['evaluate', str(model_path), str(scenes), '--device', 'cpu', '--json', str(path)])
    result = figures(evaluated)
    evaluation = json.loads(path.read_text())
    assert result['ap'] == evaluation['ap']
    assert result['counts'] == evaluation['counts']
    assert result['labelled_frames'] == result['scanned_frames'] == FRAMES
    metrics = result['ap']['Pedestrian']
    assert 5 < metrics['bbox']['AP40']['strict'][2] < 100
    assert 0 < metrics['3d']['AP40']['loose'][2] < 100
    # AP uses detections of every score, but only those above the threshold are published
    assert 0 < result['depth_error']['Pedestrian']['matched']
    total = result['lidar']['classes']['Pedestrian'][-1]
    assert total['median_abs_error_m'] < 0.03 * 13  # half of the boxes are at the scanned depth
    assert 0 < total['checked'] <= total['boxes'] == result['boxes']['Pedestrian']


def figures(out):
    return json.loads((out / 'figures.json').read_text())


def test_recorded_detections_equal_those_of_the_predictor(evaluated, bag, model_path):
    predictor = load_predictor(model_path, 'cpu')
    with BagReader(bag) as reader, BagReader(evaluated / 'answers') as outputs:
        assert set(outputs.topics) == {
            '/camera/camera_info',
            '/detector/detections',
            '/detector/markers',
            '/tf',
        }
        recorded = {topic: [] for topic in outputs.topics}
        for message in outputs.messages():
            recorded[message.topic].append((message.recorded_ns, outputs.decode(message)))
        total = 0
        for number, sample in enumerate(DriveReader(reader, DriveQuery())):
            frame = images.to_frame(sample.image, sample.info, 'camera', Rectifier('true'))
            (predictions,) = predictor([frame.image], [frame.P])
            published = predictions[predictions.score >= MIN_SCORE]
            stamp, array = recorded['/detector/detections'][number]
            assert stamp == frame.stamp_ns == primitives.header_stamp_ns(array.header)
            assert [each.results[0].hypothesis.score for each in array.detections] == list(
                published.score
            )
            boxes = recorded_boxes.boxes_from_markers(recorded['/detector/markers'][number][1])
            assert len(boxes.labels) == len(published)
            total += len(published)
    assert total > 0
    assert sum(figures(evaluated)['boxes'].values()) == total


def files_of(out, *names):
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for name in names
        for p in sorted((out / name).rglob('*') if (out / name).is_dir() else [out / name])
        if p.is_file()
    }


def test_evaluation_is_deterministic(bag, evaluated, model_path, tmp_path):
    assert run(bag, tmp_path / 'drive', model_path, '--score', MIN_SCORE, '--pictures', 2) == 0
    names = ('answers', 'figures.json', 'pictures', 'labels', 'charts/lidar.png')
    one, two = files_of(evaluated, *names), files_of(tmp_path / 'drive', *names)
    assert one == two
    assert {'answers/answers.mcap', 'figures.json', 'labels/oracle.csv'} < set(one)


def test_copied_inputs_can_be_read_as_a_drive(bare_bag, model_path, tmp_path):
    options = ('--storage', 'sqlite3', '--copy', '--pictures', 0)
    for folder in ('one', 'two'):
        assert run(bare_bag, tmp_path / folder / 'out', model_path, *options) == 0
    one, two = (files_of(tmp_path / folder / 'out', 'answers') for folder in ('one', 'two'))
    assert one == two
    assert 'answers/answers.db3' in one
    scenes = list(pictures.read_scenes(tmp_path / 'one/out/answers'))
    assert len(scenes) == FRAMES
    assert all(len(each.points_m) for each in scenes)


def test_the_report_is_one_small_self_contained_file(evaluated):
    text = (evaluated / 'report.html').read_text()
    assert len(text) < 3_000_000
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', text)
    assert len(sources) >= 2 + 4  # pictures and charts
    assert all(each.startswith(('data:image/png;', 'data:image/jpeg;')) for each in sources)
    assert 'http' not in re.sub(r'base64,[^"]*', '', text)
    assert 'Detections against labels' in text
    assert 'matched by IOU2D &gt;= 0.5: detections, best score first' in text
    timing = json.loads((evaluated / 'timing.json').read_text())
    assert timing['images'] == FRAMES
    assert set(timing['stages_ms']) == {'decode', 'inference', 'postprocess', 'total'}
    assert len(list((evaluated / 'pictures').iterdir())) == 2


def test_another_metric_is_shown_only_when_it_is_asked_for(
    bag, evaluated, model_path, tmp_path, monkeypatch, capsys
):
    assert 'metrics' not in figures(evaluated)
    monkeypatch.setitem(METRICS, 'toy', toy_metric.METRIC)
    options = ('--score', MIN_SCORE, '--pictures', 0, '--metric', 'toy')
    assert run(bag, tmp_path / 'out', model_path, *options) == 0
    printed = ' '.join(capsys.readouterr().out.split())
    assert 'metric toy' in printed
    counts = figures(evaluated)['counts']['labels']['Pedestrian']
    valid = '/'.join(str(counts['valid'][level]) for level in ('easy', 'moderate', 'hard'))
    assert f'Pedestrian {counts["total"]} ({valid} counted' in printed
    assert 'detections against labels, protocol ours' in printed
    result = figures(tmp_path / 'out')
    assert result.pop('metrics')['toy']['recall'].keys() == set(SPEC.classes)
    assert result == figures(evaluated)
    assert '<h2>Metric toy</h2>' in (tmp_path / 'out/report.html').read_text()
    assert (tmp_path / 'out/labels/metric_toy.csv').is_file()


def test_labels_come_from_a_folder_or_the_bag_or_are_absent(
    bare_bag, scenes, model_path, evaluated, tmp_path, capsys
):
    options = ('--pictures', 0, '--score', MIN_SCORE)
    labels = scenes / 'label_2'
    assert run(bare_bag, tmp_path / 'a', model_path, '--labels', labels, *options) == 0
    assert figures(tmp_path / 'a')['ap'] == figures(evaluated)['ap']
    (few := tmp_path / 'few').mkdir()
    assert run(bare_bag, tmp_path / 'b', model_path, '--labels', few, *options) == 2
    assert f'0 label files, but {bare_bag} has {FRAMES} images' in capsys.readouterr().err
    assert run(bare_bag, tmp_path / 'c', model_path, *options) == 0
    result = figures(tmp_path / 'c')
    assert (result['ap'], result['labelled_frames'], result['scanned_frames']) == (None, 0, FRAMES)
    assert result['lidar'] == figures(evaluated)['lidar']
    assert run(bare_bag, tmp_path / 'd', model_path, '--labels', 'topic') == 2
    assert 'no labels on /camera/ground_truth/labels' in capsys.readouterr().err


def test_several_bags_have_separate_and_joint_reports(bare_bag, model_path, tmp_path, capsys):
    bags, out = tmp_path / 'bags', tmp_path / 'out'
    bags.mkdir()
    for name in ('a', 'b'):
        (bags / name).symlink_to(bare_bag)
    (bags / 'broken.mcap').write_bytes(b'no bag')
    assert run(bags, out, model_path, '--jobs', 2, '--pictures', 0) == 2
    stderr = capsys.readouterr().err.strip()
    assert 'broken.mcap: not a readable bag' in stderr
    assert '\n' not in stderr
    one, joint = figures(out / 'a'), figures(out)
    assert joint['bags'] == ['a', 'b']
    assert joint['frames'] == {'camera': 2 * FRAMES}
    assert joint['boxes'] == {name: 2 * count for name, count in one['boxes'].items()}
    assert files_of(out / 'a', 'answers') == files_of(out / 'b', 'answers')
    assert not (out / 'broken.mcap').exists()


def test_a_stopped_evaluation_leaves_complete_folders_only(bare_bag, model_path, tmp_path):
    bags, out = tmp_path / 'bags', tmp_path / 'out'
    bags.mkdir()
    for number in range(9):
        (bags / str(number)).symlink_to(bare_bag)
    arguments = [bags, out, '--model', model_path, '--device', 'cpu', '--jobs', 2]
    command = [sys.executable, '-m', evaluate_bag.__name__, *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    wait_for(lambda: list(tmp_path.glob('.out.*/.?.*')))  # a worker is writing
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal
    assert b'evaluate_bag: stopped; unfinished bags were not written' in process.communicate()[1]
    assert process.returncode == 130
    assert {each.name for each in tmp_path.iterdir()} <= {'bags', 'out'}
    assert all((each / 'report.html').exists() for each in (out.iterdir() if out.exists() else ()))


def test_bad_input_exits_with_code_2_after_one_line_and_writes_nothing(
    bag, model_path, tmp_path, capsys
):
    (tmp_path / 'there').mkdir()
    (tmp_path / 'x.safetensors').write_bytes(b'x')
    before = sorted(tmp_path.iterdir())
    for given, model, options, message in (
        (tmp_path / 'none', model_path, [], 'none: no such bag'),
        (tmp_path / 'there', model_path, [], 'this folder has no metadata.yaml'),
        (bag, tmp_path / 'no.safetensors', [], 'no.safetensors'),
        (bag, tmp_path / 'x.safetensors', [], 'x.safetensors: not a readable model file'),
        (bag, model_path, ['--camera', 'rear'], 'no camera rear; the bag has camera'),
        (bag, model_path, ['--score', 2], '--score 2: parameter score_threshold'),
        (bag, model_path, ['--max-apart', -1], '--max-apart -1: parameter max_apart_s'),
        (bag, model_path, ['--pictures', -1], '--pictures -1: expected 0 or more'),
        (bag, model_path, ['--jobs', 0], '--jobs 0: expected 1 or more'),
        (bag, model_path, ['--labels', tmp_path / 'nowhere'], 'nowhere: 0 label files'),
    ):
        assert run(given, tmp_path / 'out', model, *options) == 2
        stderr = capsys.readouterr().err.strip()
        assert message in stderr
        assert '\n' not in stderr
        assert sorted(tmp_path.iterdir()) == before
    assert run(bag, tmp_path / 'there', model_path) == 2
    assert 'there: exists already' in capsys.readouterr().err
