"""Bag tools and cameras: which images are rectified, the notes, and one line for bad ones."""

import json
import re

import cv2
import numpy as np
import pytest
from bag_messages import record_camera
from kitti_scenes import P2

from mono3d_ros.bag_evaluation.pictures import read_scenes
from stl_core.data.sources import kitti

LENS = {'d': (-0.37, 0.17, 0.001, -0.002, 0.0)}
FISHEYE = {'distortion_model': 'equidistant', 'd': (0.0,) * 4}
TOOLS = ('bag_to_kitti', 'evaluate_bag')


def undistorted(pixels, info):
    K = P2[:, :3]
    if info is FISHEYE:
        return cv2.fisheye.undistortImage(pixels, K, np.zeros(4), None, K)
    return cv2.undistort(pixels, K, np.array(info['d']), None, K)


@pytest.mark.parametrize('info', [LENS, FISHEYE], ids=['lens', 'fisheye'])
@pytest.mark.parametrize(
    ('topic', 'rectified', 'options'),
    [
        ('/cam/image_raw', True, ()),
        ('/cam/image', True, ()),
        ('/cam/image', False, ('--rectified', 'true')),
        ('/cam/image', True, ('--rectify',)),
        ('/cam/image_rect', False, ()),
    ],
)
def test_written_pictures(tmp_path, run_tool, capsys, info, topic, rectified, options):
    (pixels,) = record_camera(tmp_path / 'bag', topic, **info)
    assert run_tool('bag_to_kitti', *options) == 0
    written = kitti.read_image(tmp_path / 'out/image_2/000000.png')
    expected = undistorted(pixels, info) if rectified else pixels
    inner = np.s_[10:-10, 20:-20]
    assert np.abs(written[inner].astype(int) - expected[inner]).mean() < 1
    assert kitti.read_calib(tmp_path / 'out/calib/000000.txt').P2 == pytest.approx(P2)
    assumed = topic == '/cam/image' and not options
    out = capsys.readouterr().out
    assert ('1 images: assumed that /cam/image is raw' in out) == assumed, out
    assert (f'1 images rectified: {topic}' in out) == rectified, out
    (scene,) = read_scenes(tmp_path / 'bag')  # the same rule, without options
    by_name = undistorted(pixels, info) if topic != '/cam/image_rect' else pixels
    assert np.abs(scene.frame.image[inner].astype(int) - by_name[inner]).mean() < 1


def test_a_raw_topic_without_distortion_is_not_said_to_be_rectified(tmp_path, run_tool, capsys):
    (pixels,) = record_camera(tmp_path / 'bag', '/cam/image_raw')
    assert run_tool('bag_to_kitti') == 0
    assert 'images rectified' not in capsys.readouterr().out
    written = kitti.read_image(tmp_path / 'out/image_2/000000.png')
    np.testing.assert_array_equal(written, pixels)


def test_evaluate_bag_names_its_assumptions(tmp_path, run_tool, capsys):
    record_camera(tmp_path / 'bag', '/cam/image', count=3, **LENS)
    assert run_tool('evaluate_bag') == 0
    assert '3 images: assumed that /cam/image is raw' in ' '.join(capsys.readouterr().out.split())
    figures = json.loads((tmp_path / 'out/figures.json').read_text())
    notes = {note.split(',')[0]: count for note, count in figures['notes'].items()}
    assert notes == {
        'images: assumed that /cam/image is raw': 3,
        'images rectified: /cam/image': 3,
    }
    assert figures['images_are'] == 'auto'


@pytest.mark.parametrize('tool', TOOLS)
@pytest.mark.parametrize('info', [LENS, FISHEYE], ids=['lens', 'fisheye'])
def test_a_raw_topic_taken_as_rectified_is_refused(tmp_path, run_tool, capsys, tool, info):
    record_camera(tmp_path / 'bag', '/cam/image_raw', **info)
    assert run_tool(tool, '--rectified', 'true') == 2
    line = capsys.readouterr().err.strip()
    assert re.search('rectified is true, but /cam/image_raw is named raw .*rectified: auto', line)
    assert '\n' not in line
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('tool', TOOLS)
@pytest.mark.parametrize(
    ('info', 'text'),
    [
        ({'d': (0.1,) * 10}, 'D of camera_info has 10 coefficients, but plumb_bob has 4 or 5'),
        (
            {'distortion_model': 'equidistant', 'd': (0.1,) * 5},
            'D of camera_info has 5 coefficients, but equidistant has 4',
        ),
        ({'distortion_model': 'mei', 'd': (0.1,)}, "distortion_model 'mei' is not known; known"),
        ({'d': (np.nan,) * 5}, 'D[0] of camera_info is nan'),
        ({'k': np.zeros(9)}, 'K[0] of camera_info is 0: this camera is not calibrated'),
        ({'p': P2 / 320}, 'P of camera_info is no camera matrix'),
        ({'binning_x': 4000}, 'binning of camera_info is 4000x1, more than its 320x96'),
        ({'width': 640}, 'image is 320x96 but camera_info is of 640x96'),
        ({'r': np.full(9, 0.5), 'd': (0.1,) * 4}, 'R of camera_info is not a rotation'),
    ],
)
def test_a_bad_camera_info_is_one_line(tmp_path, run_tool, capsys, tool, info, text):
    record_camera(tmp_path / 'bag', '/cam/image_raw', count=2, **info)
    assert run_tool(tool) == 2
    line = capsys.readouterr().err.strip()
    assert text in line
    assert '\n' not in line
