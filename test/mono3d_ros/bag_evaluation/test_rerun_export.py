"""Export to rerun: poses of boxes, cameras and points in the .rrd file, and refusals."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from frame_results import STAMP_NS, result
from scipy.spatial.transform import Rotation

from mono3d_ros.bag_evaluation.offline_detector import ProcessedImage
from mono3d_ros.bag_evaluation.rerun_export import WORLD, RerunError, RerunRecording
from mono3d_ros.camera_frame import CameraPose, Frame
from mono3d_ros.perception.tracker import UPRIGHT_T_CAM
from stl_core.geometry import box_corners, project_points

#: As in KITTI, the optical centre is not at the origin of the camera frame.
P = np.array([[300.0, 0, 160, 45], [0, 300, 60, 0.2], [0, 0, 1, 0.003]])


def processed_image(camera_pose=None, detections=None, points_m=None):
    detections = result(2) if detections is None else detections
    frame = Frame('front', np.full((120, 320, 3), 90, np.uint8), P, STAMP_NS, 'front_optical')
    sample = SimpleNamespace(camera_pose=camera_pose or CameraPose(), truth=None)
    return ProcessedImage(sample, frame, detections, points_m)


def test_without_rerun_the_error_names_the_package_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'rerun', None)
    with pytest.raises(RerunError, match='not installed: pip install rerun-sdk'):
        RerunRecording(tmp_path / 'a.rrd')


@pytest.fixture
def rerun():
    return pytest.importorskip('rerun', reason='rerun-sdk is not installed')


@pytest.fixture
def chunk(rerun):
    return pytest.importorskip('rerun.chunk', reason='this rerun reads no .rrd')


def write_and_read(chunk, path, *images):
    """Write a recording and read it back: entity -> column -> values of the rows."""
    with RerunRecording(path) as recording:
        for each in images:
            recording(each)
    entities = {}
    for part in chunk.RrdReader(path).stream().to_chunks():
        columns = entities.setdefault(part.entity_path, {})
        batch = part.to_record_batch()
        for name in batch.schema.names:
            column = batch.column(name)
            if 'timestamp' in str(column.type):
                column = column.cast('int64')  # Python's datetime has no nanoseconds
            columns.setdefault(name.rsplit(':', 1)[-1], []).extend(column.to_pylist())
    return entities


def test_boxes_are_at_their_poses_and_project_onto_the_image(chunk, tmp_path):
    world_T_cam = np.eye(4)
    world_T_cam[:3, :3] = Rotation.from_euler('z', 0.4).as_matrix() @ UPRIGHT_T_CAM[:3, :3]
    world_T_cam[:3, 3] = 3.0, -2.0, 1.6
    scan = np.array([[0.0, 0, 9], [1, 0, 20], [0, 0, -9], [90, 0, 9], [0, 9, 9.0]])
    pose = CameraPose(vehicle_T_cam=np.eye(4), fixed_T_cam=world_T_cam)
    one = processed_image(pose, points_m=scan)
    entities = write_and_read(chunk, tmp_path / 'a.rrd', one)
    boxes, o = entities[f'/{WORLD}/front/boxes'], one.result.objects
    signs = np.array([[x, y, z] for y in (1, -1) for x, z in ((1, 1), (1, -1), (-1, -1), (-1, 1))])
    for row, box in enumerate(box_corners(o.center_m, o.size_hwl_m, o.rotation_y)):
        rotation = Rotation.from_quat(boxes['quaternions'][0][row]).as_matrix()
        half = np.array(boxes['half_sizes'][0][row])
        corners = boxes['centers'][0][row] + signs * half @ rotation.T
        np.testing.assert_allclose(corners, box, atol=1e-4)
    assert boxes['labels'][0] == ['Car 0.90 20.0 m', 'Tram 0.80 23.4 m']
    # a pinhole at the optical centre projects points as P does
    image = entities[f'/{WORLD}/front/image']
    optical_centre = np.array(image['translation'][0][0])
    K = np.reshape(image['image_from_camera'][0][0], (3, 3)).T  # rerun stores columns
    pixels = (o.center_m - optical_centre) @ K.T
    np.testing.assert_allclose(
        pixels[:, :2] / pixels[:, 2:], project_points(o.center_m, P)[0], atol=1e-2
    )
    assert bytes(image['blob'][0][0])[:3] == b'\xff\xd8\xff'  # a JPEG
    camera = entities[f'/{WORLD}/front']
    np.testing.assert_allclose(camera['translation'][0][0], world_T_cam[:3, 3])
    rotation = np.reshape(camera['mat3x3'][0][0], (3, 3)).T
    np.testing.assert_allclose(rotation, world_T_cam[:3, :3], atol=1e-6)
    assert camera['stamp'] == [STAMP_NS]
    # only the points in the image: none behind the camera or outside the image
    assert entities[f'/{WORLD}/front/points']['positions'][0] == scan[:2].tolist()


@pytest.mark.usefixtures('rerun')
def test_the_file_appears_when_complete_or_not_at_all(tmp_path):
    path = tmp_path / 'new' / 'a.rrd'
    with pytest.raises(AttributeError), RerunRecording(path) as recording:
        recording.no_such_method()
    assert not list(path.parent.iterdir())
    tracked = replace(result(2), velocity_m_s=np.ones((2, 3)))
    with RerunRecording(path) as recording:
        for detections in (result(2), tracked, result(0)):
            recording(processed_image(detections=detections))
    assert [each.name for each in path.parent.iterdir()] == ['a.rrd']
    with pytest.raises(RerunError, match='exists already and is not overwritten'):
        RerunRecording(path)
