"""A drive seen by six cameras, answered together: every thing once, under one id, at its speed."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mono3d_ros.bag_evaluation import evaluate_bag, replay
from mono3d_ros.bag_evaluation.replay import EvaluationOptions, group_by_time
from mono3d_ros.bags import kitti_to_bag, recorded_boxes
from mono3d_ros.bags.bag_io import BagReader
from mono3d_ros.bags.drive_reader import DriveQuery, DriveReader
from mono3d_ros.messages.primitives import header_stamp_ns
from mono3d_ros.messages.rectification import passthrough_image
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
    """Sees what is labelled, and nothing else; every image knows how sure it is."""

    spec = SimpleNamespace(classes=CLASSES)

    def __init__(self, drive):
        rng = np.random.default_rng(0)
        self.truth = {}
        for view in drive.cameras:
            for number, path in view.images.items():
                tracks = view.tracks.get(number, kitti_tracking.NO_TRACKS)
                own = np.isin(tracks.labels.name, CLASSES)
                objects = tracks.labels[own].to_objects(CLASSES)
                objects.score[:] = rng.uniform(0.2, 1.0, len(objects))
                ids = np.array(tracks.track_ids)[own].tolist()
                self.truth[kitti.read_image(path).tobytes()] = objects, ids

    def __call__(self, images, Ps):
        return [self.truth[image.tobytes()][0] for image in images]

    def ids(self, frame):
        return self.truth[frame.image.tobytes()][1]


@pytest.fixture(scope='module')
def oracle(drive):
    return Oracle(drive)


def examined(bag, oracle, folder, **params):
    """Examine the bag -> moments of what was shown."""
    plan = EvaluationOptions(
        DriveQuery(), passthrough_image, Params(score_threshold=0.1, **params), num_pictures=0
    )
    shown = []
    replay.replay_bag(
        bag,
        folder,
        oracle,
        plan,
        track_progress=lambda sights, total: sights,
        on_result=shown.append,
    )
    by_time = {}
    for each in shown:
        by_time.setdefault(each.result.stamp_ns, []).append(each)
    return list(by_time.values())


def in_odom(shown, points):
    place = shown.sample.camera_pose.fixed_T_cam
    return points @ place[:3, :3].T + place[:3, 3]


def where(moment, oracle):
    """Thing -> where it truly is in odom, as every camera that sees it says."""
    found = {}
    for shown in moment:
        objects, ids = oracle.truth[shown.frame.image.tobytes()]
        for id, at in zip(ids, in_odom(shown, objects.center_m), strict=True):
            found.setdefault(id, []).append(at)
    return found


def test_cameras_stand_where_the_drive_says(drive, bag):
    with BagReader(bag) as reader:
        sights = list(DriveReader(reader, DriveQuery()))
    places = {(each.camera.name, each.image_index): each.camera_pose for each in sights}
    assert len(places) == 6 * FRAMES
    for view in drive.cameras:
        for number, odom_T_base in enumerate(drive.odom_T_base):
            place, base_T_cam = places[view.name, number], drive.base_T_cam(view)
            np.testing.assert_allclose(place.vehicle_T_cam, base_T_cam, atol=1e-6)
            np.testing.assert_allclose(place.fixed_T_cam, odom_T_base @ base_T_cam, atol=1e-6)
    with BagReader(bag) as reader:
        wish = DriveQuery(vehicle_frame='chassis', fixed_frame='')
        place = next(iter(DriveReader(reader, wish))).camera_pose
    assert place.vehicle_T_cam is None
    assert place.fixed_T_cam is None


def test_images_of_one_moment_come_together_and_of_two_apart(bag):
    with BagReader(bag) as reader:
        sights = list(DriveReader(reader, DriveQuery()))
    together = list(group_by_time(sights, 0.04))
    assert [len(each) for each in together] == [6] * FRAMES
    assert [sight for each in together for sight in each] == sights
    for each in together:
        assert len({header_stamp_ns(sight.image.header) for sight in each}) == 1
    # one camera is never twice in a moment, however long that is; nor is a late one in it
    assert [len(each) for each in group_by_time(sights, 1e9)] == [6] * FRAMES
    late = sights[:3] + sights[6:9] + [sights[3]]
    assert [len(each) for each in group_by_time(late, 0.04)] == [3, 3, 1]
    assert [len(each) for each in group_by_time(late, 0.2)] == [3, 4]


def test_every_thing_is_told_once_however_many_cameras_see_it(bag, oracle, tmp_path):
    twice = 0
    for moment in examined(bag, oracle, tmp_path / 'once'):
        truth = where(moment, oracle)
        told = np.concatenate([in_odom(shown, shown.result.objects.center_m) for shown in moment])
        assert len(told) == len(truth)
        for places in truth.values():
            twice += len(places) > 1
            assert (np.linalg.norm(told - places[0], axis=1) < 0.1).sum() == 1
    assert twice > FRAMES
    every = examined(bag, oracle, tmp_path / 'every', max_overlap_across=1.0)
    for moment in every:
        sent = sum(len(shown.result.objects) for shown in moment)
        assert sent == sum(len(places) for places in where(moment, oracle).values())


def test_tracks_are_things_and_go_as_fast(bag, oracle, tmp_path):
    told = examined(bag, oracle, tmp_path / 'tracked', tracking=True)
    truth = [where(moment, oracle) for moment in told]
    track_of = {}
    for moment, things in zip(told, truth, strict=True):
        ids = [id for shown in moment for id in shown.result.ids]
        assert len(ids) == len(set(ids))
        for shown in moment:
            at = in_odom(shown, shown.result.objects.center_m)
            for id, place in zip(shown.result.ids, at, strict=True):
                (thing,) = (t for t, p in things.items() if np.linalg.norm(p[0] - place) < 0.3)
                assert track_of.setdefault(thing, id) == id
    always = set.intersection(*map(set, truth))
    assert always <= set(track_of)
    moving = 0
    for shown in told[-1]:
        turn = shown.sample.camera_pose.fixed_T_cam[:3, :3]
        for id, velocity in zip(shown.result.ids, shown.result.velocity_m_s, strict=True):
            (thing,) = (t for t, track in track_of.items() if track == id)
            if thing in always:
                drove = truth[-1][thing][0] - truth[0][thing][0]
                moving += np.linalg.norm(drove) > 0.4
                wanted = drove / (0.1 * (FRAMES - 1)) * [1, 1, 0]
                np.testing.assert_allclose(turn @ velocity, wanted, atol=0.1)
    assert moving > 1


def run(bag, out, *options):
    model = ['--model', 'synthetic_mobile.safetensors', '--device', 'cpu', '--pictures', 0]
    return evaluate_bag.main([str(each) for each in (bag, out, *model, *options)])


def test_answers_are_where_the_node_has_them(bag, tmp_path):
    assert run(bag, tmp_path / 'ring', '--track', '--score', 0.05) == 0
    with BagReader(tmp_path / 'ring/answers') as answers:
        spaces = {topic.rsplit('/', 1)[0] for topic in answers.topics if 'detector' in topic}
    assert spaces == {f'/detector/{name}' for name in sequence.SURROUND_CAMERAS}
    assert run(bag, tmp_path / 'one', '--camera', 'front_left', '--every', 2) == 0
    with BagReader(tmp_path / 'one/answers') as answers:
        spaces = {topic.rsplit('/', 1)[0] for topic in answers.topics if 'detector' in topic}
    assert spaces == {'/detector'}
    told = json.loads((tmp_path / 'ring/figures.json').read_text())
    assert told['tracked_in'] == 'odom'
    assert set(told['frames'].values()) == {FRAMES}
    timing = json.loads((tmp_path / 'ring/timing.json').read_text())
    assert timing['images'] == 6 * FRAMES


def test_a_film_is_made_where_rerun_is_and_else_is_told_how_to_get_it(
    bag, tmp_path, monkeypatch, capsys
):
    path = tmp_path / 'film.rrd'
    options = ('--camera', 'front', '--every', 4, '--rerun', path)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, 'rerun', None)
        assert run(bag, tmp_path / 'out', *options) == 2
        assert 'pip install rerun-sdk' in capsys.readouterr().err
    assert run(bag.parent, tmp_path / 'out', *options) == 2
    assert 'a film shows one bag' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    pytest.importorskip('rerun', reason='rerun-sdk is not installed')
    assert run(bag, tmp_path / 'out', *options) == 0
    assert path.stat().st_size > 10_000
    assert run(bag, tmp_path / 'again', *options) == 2
    assert 'film.rrd: exists already' in capsys.readouterr().err


def test_tracked_answers_are_the_same_bytes_each_time(bag, tmp_path):
    for name in ('a', 'b'):
        options = ('--track', '--camera', 'front', '--score', 0.05)
        assert run(bag, tmp_path / name / 'out', *options) == 0
    one, two = ((tmp_path / name / 'out/answers/answers.mcap').read_bytes() for name in 'ab')
    assert one == two
    with BagReader(tmp_path / 'a/out/answers') as answers:
        arrays = [answers.decode(each) for each in answers.messages(['/detector/markers'])]
    labels = [text for each in arrays for text in recorded_boxes.boxes_from_markers(each).labels]
    assert labels
    assert all('#' in text for text in labels)
