"""Bag tools: scans and transforms that cannot be used are counted, and never cost an image."""

import json

import numpy as np
import pytest
from bag_messages import MS, STORE, cloud, record_camera, tf_message

from mono3d_ros.bags.bag_io import BagReader, BagWriter
from stl_core.data.sources import kitti

TOOLS = ('bag_to_kitti', 'evaluate_bag')
POINTS = np.arange(8.0).reshape(2, 4)
STATIC = [('/tf_static', 0, tf_message(0, ('base', 'cam_optical', 1.0), ('base', 'lidar', 0.5)))]


def scans(*changes):
    """Return one scan per image of record_camera, each with changed fields."""
    stamps = [100 * MS * (i + 1) for i in range(len(changes))]
    return [
        ('/points', ns, cloud(ns, **{'points': POINTS, **each}))
        for ns, each in zip(stamps, changes, strict=True)
    ]


@pytest.mark.parametrize('tool', TOOLS)
@pytest.mark.parametrize(
    ('bad', 'reason'),
    [
        ({'fields': []}, 'a cloud without x, y, z; its fields are none'),
        ({'names': ('X', 'Y', 'Z', 'i')}, 'a cloud without x, y, z; its fields are X, Y, Z, i'),
        ({'point_step': 0}, 'a cloud with point_step 0, but x ends at byte 4'),
        ({'points': np.full((2, 4), np.nan)}, 'a cloud of 2 points, none of them finite'),
        ({'width': 0, 'data': np.zeros(0, np.uint8)}, 'a cloud of 0 * 1 points'),
        ({'width': 9}, 'a cloud of 32 bytes, too few for 9 * 1 points of 16 bytes'),
    ],
)
def test_one_bad_scan_of_three(tmp_path, run_tool, capsys, tool, bad, reason):
    others = [*STATIC, *scans({}, bad, {'row_step': 0, 'height': 2, 'width': 1})]
    record_camera(tmp_path / 'bag', count=3, others=others)
    assert run_tool(tool) == 0
    out = ' '.join(capsys.readouterr().out.split())
    assert f'1 scans skipped: {reason}' in out
    if tool == 'bag_to_kitti':
        assert len(list((tmp_path / 'out/image_2').iterdir())) == 3
        scanned = sorted((tmp_path / 'out/velodyne').iterdir())
        assert [each.stem for each in scanned] == ['000000', '000002']
        for each in scanned:
            np.testing.assert_array_equal(kitti.read_velodyne(each), POINTS)
    else:
        figures = json.loads((tmp_path / 'out/figures.json').read_text())
        assert (figures['frames'], figures['scanned_frames']) == ({'cam': 3}, 2)
        assert any(reason in note for note in figures['notes'])


@pytest.mark.parametrize('num_bytes', [6, 60])
@pytest.mark.parametrize('tool', TOOLS)
def test_damaged_messages_of_scans_and_tf(tmp_path, run_tool, capsys, tool, num_bytes):
    """The bytes end in the stamp, or after the header."""
    record_camera(tmp_path / 'whole', count=2, others=[*STATIC, *scans({}, {})])
    with BagReader(tmp_path / 'whole') as reader, BagWriter(tmp_path / 'bag', STORE) as bag:
        for topic, kind in reader.topics.items():
            bag.add_topic(topic, kind)
        for each in reader.messages():
            cut = each.topic == '/points' and each.recorded_ns == 200 * MS
            bag.write_cdr(each.topic, each.recorded_ns, each.cdr[:num_bytes] if cut else each.cdr)
            if each.topic == '/tf_static':
                bag.write_cdr(each.topic, each.recorded_ns, each.cdr[:num_bytes])
    assert run_tool(tool) == 0
    out = ' '.join(capsys.readouterr().out.split())
    assert '1 messages of /tf_static skipped: not a tf2_msgs/msg/TFMessage' in out
    if num_bytes == 60:
        assert '1 messages of /points skipped: not a sensor_msgs/msg/PointCloud2' in out
    if tool == 'bag_to_kitti':
        assert len(list((tmp_path / 'out/image_2').iterdir())) == 2
        assert [each.stem for each in (tmp_path / 'out/velodyne').iterdir()] == ['000000']


@pytest.mark.parametrize(
    ('begin_s', 'covered'),
    [(100, 'only from 100.000 to 101.000 s'), (-100, 'only from -100.000 to -99.000 s')],
)
def test_stale_moving_transforms_are_not_used(tmp_path, run_tool, capsys, begin_s, covered):
    moving = [
        ('/tf', 1, tf_message(at_s * 1000 * MS, ('base', 'lidar', float(at_s))))
        for at_s in (begin_s, begin_s + 1)
    ]
    static = [('/tf_static', 0, tf_message(0, ('base', 'cam_optical', 1.0)))]
    record_camera(tmp_path / 'bag', count=2, others=[*static, *moving, *scans({}, {})])
    assert run_tool('bag_to_kitti') == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        '2 without Tr_velo_to_cam: no transform from lidar to the camera: '
        f"tf has the moving frame 'lidar' {covered}"
    ) in lines
    assert 'Tr_velo' not in (tmp_path / 'out/calib/000000.txt').read_text()


def test_faulty_transforms_are_counted_and_the_good_ones_used(tmp_path, run_tool, capsys):
    bad = tf_message(0, ('base', 'lidar', 9.0))
    bad.transforms[0].transform.translation.x = float('nan')
    slashes = tf_message(0, ('/base', '/lidar', 0.5))
    others = [('/tf_static', 0, STATIC[0][2]), ('/tf_static', 1, slashes), ('/tf_static', 2, bad)]
    record_camera(tmp_path / 'bag', others=[*others, *scans({})])
    assert run_tool('bag_to_kitti') == 0
    out = capsys.readouterr().out
    text = "transform from 'lidar' to 'base': numbers that are not finite"
    assert f'1 transforms: ignored, as tf2 does: {text}' in out
    calib = kitti.read_calib(tmp_path / 'out/calib/000000.txt')
    assert calib.cam_T_velo[0, 3] == -0.5


def test_a_slash_in_the_header_of_a_scan_is_named(tmp_path, run_tool, capsys):
    record_camera(tmp_path / 'bag', others=[*STATIC, *scans({'frame_id': '/lidar'})])
    assert run_tool('bag_to_kitti') == 0
    hint = "names of tf frames begin without a slash: 'lidar', not '/lidar'"
    assert f'no transform from /lidar to the camera: {hint}' in capsys.readouterr().out
