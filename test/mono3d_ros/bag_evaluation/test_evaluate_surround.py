"""Evaluation of a surround drive: one box per object, stable track ids and velocities."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mono3d_ros.bag_evaluation import evaluate_bag, replay
from mono3d_ros.bag_evaluation.replay import EvaluationOptions, group_by_time
from mono3d_ros.bags import kitti_to_bag, recorded_boxes
from mono3d_ros.bags.bag_io import BagReader
from mono3d_ros.bags.drive_query import DriveQuery
from mono3d_ros.bags.drive_reader import DriveReader
from mono3d_ros.messages.primitives import header_stamp_ns
from mono3d_ros.params import Params
from stl_core.data.sources import kitti, kitti_tracking
from stl_core.data.synthetic import sequence, writer
from stl_core.data.synthetic.sensors import camera
from stl_core.data.synthetic.sensors.lidar import Lidar

pytestmark = pytest.mark.usefixtures('one_thread')

SEED, FRAMES = 6, 4
CLASSES = ('Car', 'Pedestrian', 'Cyclist')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    out = tmp_path_factory.mktemp('ring')
    model = camera.KITTI.scaled(320, 96)
    job = writer.SynthesisJob(str(out), SEED, model, Lidar(columns=200), depth=False)
    sequence.synthesize_drive(job, FRAMES, 0, surround=True, show_progress=False)
    return out


@pytest.fixture(scope='module')
def drive(root):
    return kitti_tracking.read_drive(root)


@pytest.fixture(scope='module')
def bag(root, tmp_path_factory):
    out = tmp_path_factory.mktemp('bags') / 'ring'
    assert kitti_to_bag.main([str(root), str(out)]) == 0
    return out


class Oracle:
    """Predictor that returns the labels of an image, with random scores."""

    spec, device = SimpleNamespace(classes=CLASSES), 'cpu'

    def __init__(self, drive):
        rng = np.random.default_rng(0)
        self.truth = {}
        for camera_of_drive in drive.cameras:
            for number, path in camera_of_drive.images.items():
                tracks = camera_of_drive.tracks.get(number, kitti_tracking.NO_TRACKS)
                of_classes = np.isin(tracks.labels.name, CLASSES)
                objects = tracks.labels[of_classes].to_objects(CLASSES)
                objects.score[:] = rng.uniform(0.2, 1.0, len(objects))
                ids = np.array(tracks.track_ids)[of_classes].tolist()
                self.truth[kitti.read_image(path).tobytes()] = objects, ids

    def __call__(self, images, Ps):
        return [self.truth[image.tobytes()][0] for image in images]

    def ids(self, frame):
        return self.truth[frame.image.tobytes()][1]


@pytest.fixture(scope='module')
def oracle(drive):
    return Oracle(drive)


def replay_with(bag, oracle, folder, **params):
    """Replay the bag; returns the processed images of each time step."""
    options = EvaluationOptions(
        DriveQuery(), Params(score_threshold=0.1, **params), num_pictures=0
    )
    processed = []
    replay.replay_bag(
        bag,
        folder,
        oracle,
        options,
        track_progress=lambda samples, total: samples,
        on_result=processed.append,
    )
    by_time = {}
    for each in processed:
        by_time.setdefault(each.result.stamp_ns, []).append(each)
    return list(by_time.values())


def in_odom(image, points):
    odom_T_cam = image.sample.camera_pose.fixed_T_cam
    return points @ odom_T_cam[:3, :3].T + odom_T_cam[:3, 3]


def true_positions(images, oracle):
    """Return object id -> its labelled positions in odom, one for each image that shows it."""
    positions = {}
    for image in images:
        objects, ids = oracle.truth[image.frame.image.tobytes()]
        for id, position in zip(ids, in_odom(image, objects.center_m), strict=True):
            positions.setdefault(id, []).append(position)
    return positions


def test_camera_poses_equal_those_of_the_drive(drive, bag):
    with BagReader(bag) as reader:
        samples = list(DriveReader(reader, DriveQuery()))
    poses = {(each.camera.name, each.image_index): each.camera_pose for each in samples}
    assert len(poses) == 6 * FRAMES
    for each in drive.cameras:
        for number, odom_T_base in enumerate(drive.odom_T_base):
            pose, base_T_cam = poses[each.name, number], drive.base_T_cam(each)
            np.testing.assert_allclose(pose.vehicle_T_cam, base_T_cam, atol=1e-6)
            np.testing.assert_allclose(pose.fixed_T_cam, odom_T_base @ base_T_cam, atol=1e-6)
    with BagReader(bag) as reader:
        query = DriveQuery(vehicle_frame='chassis', fixed_frame='')
        pose = next(iter(DriveReader(reader, query))).camera_pose
    assert pose.vehicle_T_cam is None
    assert pose.fixed_T_cam is None


def test_images_are_grouped_by_time(bag):
    with BagReader(bag) as reader:
        samples = list(DriveReader(reader, DriveQuery()))
    groups = list(group_by_time(samples, 0.04))
    assert [len(each) for each in groups] == [6] * FRAMES
    assert [sample for each in groups for sample in each] == samples
    for each in groups:
        assert len({header_stamp_ns(sample.image.header) for sample in each}) == 1
    # a group never has two images of one camera, for any max_apart_s, or an image that is too late
    assert [len(each) for each in group_by_time(samples, 1e9)] == [6] * FRAMES
    late = samples[:3] + samples[6:9] + [samples[3]]
    assert [len(each) for each in group_by_time(late, 0.04)] == [3, 3, 1]
    assert [len(each) for each in group_by_time(late, 0.2)] == [3, 4]


def test_an_object_in_several_images_is_published_once(bag, oracle, tmp_path):
    num_shared = 0
    for images in replay_with(bag, oracle, tmp_path / 'once'):
        truth = true_positions(images, oracle)
        published = np.concatenate(
            [in_odom(image, image.result.objects.center_m) for image in images]
        )
        assert len(published) == len(truth)
        for positions in truth.values():
            num_shared += len(positions) > 1
            assert (np.linalg.norm(published - positions[0], axis=1) < 0.1).sum() == 1
    assert num_shared > FRAMES
    for images in replay_with(bag, oracle, tmp_path / 'every', max_overlap_across=1.0):
        num_published = sum(len(image.result.objects) for image in images)
        truth = true_positions(images, oracle)
        assert num_published == sum(len(positions) for positions in truth.values())


def test_tracks_have_stable_ids_and_true_velocities(bag, oracle, tmp_path):
    steps = replay_with(bag, oracle, tmp_path / 'tracked', tracking=True)
    truth = [true_positions(images, oracle) for images in steps]
    track_of = {}
    for images, actors in zip(steps, truth, strict=True):
        ids = [id for image in images for id in image.result.ids]
        assert len(ids) == len(set(ids))
        for image in images:
            centers = in_odom(image, image.result.objects.center_m)
            for id, center in zip(image.result.ids, centers, strict=True):
                (actor,) = (a for a, p in actors.items() if np.linalg.norm(p[0] - center) < 0.3)
                assert track_of.setdefault(actor, id) == id
    always_visible = set.intersection(*map(set, truth))
    assert always_visible <= set(track_of)
    moving = 0
    for image in steps[-1]:
        rotation = image.sample.camera_pose.fixed_T_cam[:3, :3]
        for id, velocity in zip(image.result.ids, image.result.velocity_m_s, strict=True):
            (actor,) = (a for a, track in track_of.items() if track == id)
            if actor in always_visible:
                displacement = truth[-1][actor][0] - truth[0][actor][0]
                moving += np.linalg.norm(displacement) > 0.4
                expected = displacement / (0.1 * (FRAMES - 1)) * [1, 1, 0]
                np.testing.assert_allclose(rotation @ velocity, expected, atol=0.1)
    assert moving > 1


def run(bag, out, *options):
    model = ['--model', 'synthetic_mobile.safetensors', '--device', 'cpu', '--pictures', 0]
    return evaluate_bag.main([str(each) for each in (bag, out, *model, *options)])


def test_output_topics_equal_those_of_the_node(bag, tmp_path):
    assert run(bag, tmp_path / 'ring', '--track', '--score', 0.05) == 0
    with BagReader(tmp_path / 'ring/answers') as outputs:
        spaces = {topic.rsplit('/', 1)[0] for topic in outputs.topics if 'detector' in topic}
    assert spaces == {f'/detector/{name}' for name in sequence.SURROUND_CAMERAS}
    assert run(bag, tmp_path / 'one', '--camera', 'front_left', '--every', 2) == 0
    with BagReader(tmp_path / 'one/answers') as outputs:
        spaces = {topic.rsplit('/', 1)[0] for topic in outputs.topics if 'detector' in topic}
    assert spaces == {'/detector'}
    figures = json.loads((tmp_path / 'ring/figures.json').read_text())
    assert figures['tracked_in'] == 'odom'
    assert set(figures['frames'].values()) == {FRAMES}
    timing = json.loads((tmp_path / 'ring/timing.json').read_text())
    assert timing['images'] == 6 * FRAMES


def test_rerun_option_writes_a_recording_or_explains_how_to_install_rerun(
    bag, tmp_path, monkeypatch, capsys
):
    path = tmp_path / 'drive.rrd'
    options = ('--camera', 'front', '--every', 4, '--rerun', path)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, 'rerun', None)
        assert run(bag, tmp_path / 'out', *options) == 2
        assert 'pip install rerun-sdk' in capsys.readouterr().err
    assert run(bag.parent, tmp_path / 'out', *options) == 2
    assert '--rerun records one bag' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    pytest.importorskip('rerun', reason='rerun-sdk is not installed')
    assert run(bag, tmp_path / 'out', *options) == 0
    assert path.stat().st_size > 10_000
    assert run(bag, tmp_path / 'again', *options) == 2
    assert 'drive.rrd: exists already' in capsys.readouterr().err


def test_tracked_detections_are_deterministic(bag, tmp_path):
    for name in ('a', 'b'):
        options = ('--track', '--camera', 'front', '--score', 0.05)
        assert run(bag, tmp_path / name / 'out', *options) == 0
    one, two = ((tmp_path / name / 'out/answers/answers.mcap').read_bytes() for name in 'ab')
    assert one == two
    with BagReader(tmp_path / 'a/out/answers') as outputs:
        arrays = [outputs.decode(each) for each in outputs.messages(['/detector/markers'])]
    labels = [text for each in arrays for text in recorded_boxes.boxes_from_markers(each).labels]
    assert labels
    assert all('#' in text for text in labels)
