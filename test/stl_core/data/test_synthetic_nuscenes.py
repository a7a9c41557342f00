"""The synthetic world as a nuScenes database: read by our source, and by the devkit."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest

from stl_core import geometry
from stl_core.cli import main
from stl_core.data.frame_source import DataError
from stl_core.data.sources import nuscenes
from stl_core.data.synthetic.nuscenes.database import RECORDS, synthesize_database
from stl_core.data.synthetic.nuscenes.sample import DatabaseJob, write_sample
from stl_core.evaluation.nuscenes.devkit import Devkit
from stl_core.evaluation.nuscenes.names import ATTRIBUTES, CAMERAS, CLASSES
from stl_core.evaluation.nuscenes.results import SampleDetections, build_results
from stl_core.rotations import move_points

#: A scene with cars and pedestrians; small pictures.
JOB = DatabaseJob('', 9, samples_per_scene=3, width_px=176, height_px=64, sweeps=2)
VERSION = 'v1.0-synthetic'
needs_devkit = pytest.mark.skipif(
    importlib.util.find_spec('nuscenes') is None,
    reason='nuscenes-devkit is not installed (pip install --no-deps nuscenes-devkit==1.2.0)',
)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('synthetic') / 'nuscenes'
    text = synthesize_database(replace(JOB, out=str(root)), 6, workers=0, show_progress=False)
    assert text.startswith('2 scenes, 6 samples, 36 pictures of 176x64, ')
    assert 'no truck' in text or 'no bus' in text
    return root


@pytest.fixture(scope='module')
def source(root):
    return nuscenes.NuscenesSource(nuscenes.NuscenesFolder(str(root), sweeps=2))


@pytest.fixture(scope='module')
def samples(source):
    return [source.read(each) for each in source.ids]


def rows(root, name):
    return json.loads((root / VERSION / f'{name}.json').read_text())


def test_all_tables_splits_pictures_and_scans_are_there(root):
    names = {path.stem for path in (root / VERSION).iterdir()}
    assert len(names - {'splits'}) == 13
    splits = json.loads((root / VERSION / 'splits.json').read_text())
    assert splits == {'synthetic_train': ['synthetic-0000'], 'synthetic_val': ['synthetic-0001']}
    assert len(list(root.glob('samples/CAM_*/*.jpg'))) == 36
    assert len(list(root.glob('samples/LIDAR_TOP/*.pcd.bin'))) == 6
    assert len(list(root.glob('sweeps/LIDAR_TOP/*.pcd.bin'))) == 12
    assert not (root / RECORDS).exists()


def test_scans_lie_on_the_boxes_and_pictures(samples):
    """Points of a counted box, through each camera, lie in the 2D box and at its depth."""
    checked = 0
    for sample in samples:
        for image in sample.images:
            points = image.points.read()[:, :3].astype(np.float64)
            labels = image.labels
            for index in np.flatnonzero((labels.num_points > 20) & (labels.truncated == 0)):
                size = labels.size_hwl_m[index]
                near = np.linalg.norm(points - labels.center_m[index], axis=1) < size.min() / 2
                pixels, depth_m = geometry.project_points(points[near], image.P)
                low, high = np.split(labels.box_px[index], 2)
                assert ((pixels >= low - 1) & (pixels <= high + 1)).all()
                assert (np.abs(depth_m - labels.center_m[index, 2]) < size.max()).all()
                checked += 1
    assert checked > 5


def test_a_box_is_the_same_in_every_camera_and_around_the_vehicle(samples):
    for sample in samples:
        for image in sample.images:
            in_vehicle = move_points(image.vehicle_T_cam, image.labels.center_m)
            distance = np.linalg.norm(in_vehicle[:, None] - sample.labels.center_m[None], axis=2)
            assert (distance.min(1) < 1e-6).all()


def test_velocities_of_the_chains_are_the_speeds_of_the_world(root, samples):
    """A moving object moves along its heading; a parked one has velocity 0."""
    job = replace(JOB, out=str(root))
    moving = parked = 0
    for number, sample in enumerate(samples):
        record = write_sample(job, *divmod(number, JOB.samples_per_scene))
        assert len(record.boxes) == len(sample.labels)
        centers = move_points(sample.global_T_vehicle, sample.labels.center_m)
        for box in record.boxes:
            row = int(np.linalg.norm(centers - box.center_m, axis=1).argmin())
            velocity, yaw = sample.labels.velocity_mps[row], sample.labels.yaw[row]
            if np.isnan(velocity).any():
                continue
            assert np.hypot(*velocity) == pytest.approx(box.speed_mps, abs=0.15)
            if box.speed_mps > 0.5 and box.name != 'Pedestrian':
                turn = geometry.wrap_angle(np.arctan2(velocity[1], velocity[0]) - yaw)
                assert abs(turn) < 0.1
                moving += 1
            parked += box.speed_mps == 0
    assert moving + parked > 3


def test_cameras_fire_one_after_another_on_a_moving_vehicle(samples):
    stamps = [image.stamp_us - samples[0].stamp_us for image in samples[0].images]
    assert stamps == [-35000, -27000, -19000, -10000, -1000, 5000]
    assert [image.camera for image in samples[0].images] == list(CAMERAS)
    way = samples[1].global_T_vehicle[:3, 3] - samples[0].global_T_vehicle[:3, 3]
    speed = np.linalg.norm(way) / 0.5
    front = samples[0].images[0].vehicle_T_cam[:3, 3]
    assert front[0] == pytest.approx(1.70 - 0.035 * speed, abs=0.01)
    # the heading follows the way
    along = samples[0].global_T_vehicle[:3, 0]
    assert speed < 0.1 or way @ along / np.linalg.norm(way) > 0.99
    back = samples[0].images[3]
    assert back.P[0, 0] / samples[0].images[0].P[0, 0] == pytest.approx(0.64)


def test_a_sample_depends_on_seed_and_number_only(root, tmp_path):
    job = replace(JOB, out=str(tmp_path))
    for channel in (*CAMERAS, 'LIDAR_TOP'):
        for folder in ('samples', 'sweeps'):
            (tmp_path / folder / channel).mkdir(parents=True)
    record = write_sample(job, 1, 1)
    for sensor in record.sensors:
        written = (tmp_path / sensor.filename).read_bytes()
        assert written == (root / sensor.filename).read_bytes()


def test_an_interrupted_run_resumes_and_other_settings_are_refused(tmp_path):
    job = replace(JOB, out=str(tmp_path / 'db'), sweeps=0, width_px=88, height_px=32)
    synthesize_database(job, 1, 0, show_progress=False)
    tables = {p.name: p.read_bytes() for p in (tmp_path / 'db' / VERSION).iterdir()}
    with pytest.raises(DataError, match='made with other settings'):
        synthesize_database(replace(job, seed=10), 1, 0, show_progress=False)
    (tmp_path / 'db' / VERSION / 'scene.json').unlink()
    synthesize_database(job, 1, 0, show_progress=False)
    assert {p.name: p.read_bytes() for p in (tmp_path / 'db' / VERSION).iterdir()} == tables


def test_options_that_a_database_does_not_have_are_refused(tmp_path, capsys):
    for option, message in (
        ('--sequence', 'and no --sequence'),
        ('--sweeps=12', 'expected 0 to 9'),
    ):
        with pytest.raises(SystemExit):
            main.main(
                ['synthesize', str(tmp_path), '--format', 'nuscenes', '--frames', '1', option]
            )
        assert message in capsys.readouterr().err


@needs_devkit
def test_the_devkit_reads_and_judges_it(root, samples):
    from nuscenes.utils.data_classes import LidarPointCloud
    from nuscenes.utils.geometry_utils import points_in_box

    devkit = Devkit(root, VERSION)
    database = devkit.database
    for sample in samples:
        row = database.get('sample', sample.id)
        path, boxes, _ = database.get_sample_data(row['data']['LIDAR_TOP'])
        points = LidarPointCloud.from_file(path).points[:3]
        for box, token in zip(boxes, row['anns'], strict=True):
            counted = int(points_in_box(box, points).sum())
            written = database.get('sample_annotation', token)['num_lidar_pts']
            assert abs(counted - written) <= 1  # a point on a face
            ours = sample.labels.velocity_mps[row['anns'].index(token)]
            level = sample.global_T_vehicle[:2, :2] @ ours  # the vehicle stands level
            np.testing.assert_allclose(level, database.box_velocity(token)[:2], atol=1e-6)
        for image in sample.images:
            _, shown, K = database.get_sample_data(row['data'][image.camera])
            assert len(shown) == len(image.labels)
            np.testing.assert_array_equal(K, image.P[:, :3])
    val = [sample for sample in samples if sample.id.startswith('synthetic-0001')]
    perfect = [
        SampleDetections(
            sample.id,
            sample.labels[sample.labels.num_points > 0].to_objects(CLASSES, ATTRIBUTES),
            sample.global_T_vehicle,
        )
        for sample in val
    ]
    result = devkit.evaluate(build_results(perfect, CLASSES, ATTRIBUTES)[0], 'synthetic_val')
    assert result.present_mean_ap == pytest.approx(1.0)
    assert result.present
