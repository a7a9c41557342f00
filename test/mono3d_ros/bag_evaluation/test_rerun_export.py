"""The film for rerun's viewer: what was answered, where it was; and what is told without rerun."""

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

#: KITTI's cameras do not stand where their frame begins.
P = np.array([[300.0, 0, 160, 45], [0, 300, 60, 0.2], [0, 0, 1, 0.003]])


def shown(place=None, found=None, points_m=None):
    found = result(2) if found is None else found
    frame = Frame('front', np.full((120, 320, 3), 90, np.uint8), P, STAMP_NS, 'front_optical')
    sight = SimpleNamespace(place=place or CameraPose(), truth=None)
    return ProcessedImage(sight, frame, found, points_m)


def test_without_rerun_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'rerun', None)
    with pytest.raises(RerunError, match='not installed: pip install rerun-sdk'):
        RerunRecording(tmp_path / 'a.rrd')


@pytest.fixture
def rerun():
    return pytest.importorskip('rerun', reason='rerun-sdk is not installed')


@pytest.fixture
def chunk(rerun):
    return pytest.importorskip('rerun.chunk', reason='this rerun reads no .rrd')


def film(chunk, path, *scenes):
    """Make a film -> entity -> its columns, row by row."""
    with RerunRecording(path) as out:
        for each in scenes:
            out(each)
    found = {}
    for part in chunk.RrdReader(path).stream().to_chunks():
        columns = found.setdefault(part.entity_path, {})
        batch = part.to_record_batch()
        for name in batch.schema.names:
            column = batch.column(name)
            if 'timestamp' in str(column.type):
                column = column.cast('int64')  # Python's times know no nanoseconds
            columns.setdefault(name.rsplit(':', 1)[-1], []).extend(column.to_pylist())
    return found


def test_boxes_are_where_they_were_found_and_show_on_the_image_where_they_are(chunk, tmp_path):
    place = np.eye(4)
    place[:3, :3] = Rotation.from_euler('z', 0.4).as_matrix() @ UPRIGHT_T_CAM[:3, :3]
    place[:3, 3] = 3.0, -2.0, 1.6
    scan = np.array([[0.0, 0, 9], [1, 0, 20], [0, 0, -9], [90, 0, 9], [0, 9, 9.0]])
    one = shown(CameraPose(vehicle_T_cam=np.eye(4), fixed_T_cam=place), points_m=scan)
    found = film(chunk, tmp_path / 'a.rrd', one)
    boxes, o = found[f'/{WORLD}/front/boxes'], one.result.objects
    signs = np.array([[x, y, z] for y in (1, -1) for x, z in ((1, 1), (1, -1), (-1, -1), (-1, 1))])
    for row, box in enumerate(box_corners(o.center_m, o.size_hwl_m, o.rotation_y)):
        turn = Rotation.from_quat(boxes['quaternions'][0][row]).as_matrix()
        half = np.array(boxes['half_sizes'][0][row])
        at = boxes['centers'][0][row] + signs * half @ turn.T
        np.testing.assert_allclose(at, box, atol=1e-4)
    assert boxes['labels'][0] == ['Car 0.90 20.0 m', 'Tram 0.80 23.4 m']
    # a pinhole that stands where the eye is shows points as P does
    image = found[f'/{WORLD}/front/image']
    eye = np.array(image['translation'][0][0])
    K = np.reshape(image['image_from_camera'][0][0], (3, 3)).T  # rerun keeps columns
    pixels = (o.center_m - eye) @ K.T
    np.testing.assert_allclose(
        pixels[:, :2] / pixels[:, 2:], project_points(o.center_m, P)[0], atol=1e-2
    )
    assert bytes(image['blob'][0][0])[:3] == b'\xff\xd8\xff'  # a JPEG
    camera = found[f'/{WORLD}/front']
    np.testing.assert_allclose(camera['translation'][0][0], place[:3, 3])
    turn = np.reshape(camera['mat3x3'][0][0], (3, 3)).T
    np.testing.assert_allclose(turn, place[:3, :3], atol=1e-6)
    assert camera['stamp'] == [STAMP_NS]
    # of the scan, what the image shows: not what is behind, beside or below
    assert found[f'/{WORLD}/front/points']['positions'][0] == scan[:2].tolist()


@pytest.mark.usefixtures('rerun')
def test_it_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'new' / 'a.rrd'
    with pytest.raises(AttributeError), RerunRecording(path) as out:
        out.add_nothing()
    assert not list(path.parent.iterdir())
    tracked = replace(result(2), velocity_m_s=np.ones((2, 3)))
    with RerunRecording(path) as out:
        for found in (result(2), tracked, result(0)):
            out(shown(found=found))
    assert [each.name for each in path.parent.iterdir()] == ['a.rrd']
    with pytest.raises(RerunError, match='exists already and is not overwritten'):
        RerunRecording(path)
