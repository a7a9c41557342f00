from types import SimpleNamespace

import numpy as np
import pytest

from mono3d_ros.camera_frame import Frame
from mono3d_ros.perception.lens_check import lens_mismatch, trained_lens
from stl_core.preprocessing import InputSpec

KITTI_P = np.array([[721.5377, 0, 609.6, 44.9], [0, 721.5377, 172.9, 0.2], [0, 0, 1, 0.003]])


def spec(virtual_focal_px=720.0, **provenance):
    return SimpleNamespace(
        input=InputSpec(512, 160),
        options={'virtual_focal_px': virtual_focal_px},
        provenance=provenance,
    )


def frame(zoom=1.0, scale=1.0, height=375, width=1242):
    """KITTI's camera, with a longer lens, or with more pixels."""
    P = np.diag([zoom * scale, zoom * scale, 1.0]) @ KITTI_P
    image = np.zeros((int(height * scale), int(width * scale), 3), np.uint8)
    return Frame('front', image, P, 0, 'front_optical')


@pytest.mark.parametrize('scale', [0.5, 1.0, 2.0])
def test_pixels_are_no_matter(scale):
    assert lens_mismatch(trained_lens(spec()), frame(scale=scale)) == ''


@pytest.mark.parametrize(
    ('zoom', 'known'), [(0.55, False), (0.65, True), (1.35, True), (1.5, False)]
)
def test_virtual_depth_knows_the_lenses_of_the_zooms_it_was_shown(zoom, known):
    assert (lens_mismatch(trained_lens(spec()), frame(zoom)) == '') is known


@pytest.mark.parametrize(
    ('zoom', 'known'), [(0.85, False), (0.95, True), (1.05, True), (1.15, False)]
)
def test_plain_depth_knows_its_own_lens_only(zoom, known):
    assert (lens_mismatch(trained_lens(spec(virtual_focal_px=0)), frame(zoom)) == '') is known


def test_a_student_may_tell_its_lens():
    own_px = 2 * 721.5377 * 512 / 1242
    assert lens_mismatch(trained_lens(spec(focal_px=own_px)), frame(2.0)) == ''
    assert 'this lens is 0.50 times as long' in lens_mismatch(
        trained_lens(spec(focal_px=own_px)), frame()
    )


def test_a_picture_that_is_cut_low_and_wide_fills_the_canvas_differently():
    """The upper half of KITTI's picture is no other lens, a 16:9 picture of 80 degrees is one."""
    assert lens_mismatch(trained_lens(spec()), frame(height=300)) == ''
    said = lens_mismatch(
        trained_lens(spec()), frame(zoom=1080 / 721.5377, height=1080, width=1920)
    )
    assert '0.54 times as long as the one the student has learnt (160 to 297 px' in said


def test_a_predictor_that_tells_no_canvas_has_no_lens():
    assert trained_lens(SimpleNamespace(classes=('Car',))) is None
    assert lens_mismatch(None, frame(9.0)) == ''
