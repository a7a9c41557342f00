"""Check of the focal length against the training camera."""

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
    """Build a frame of KITTI's camera, with another focal length or resolution."""
    P = np.diag([zoom * scale, zoom * scale, 1.0]) @ KITTI_P
    image = np.zeros((int(height * scale), int(width * scale), 3), np.uint8)
    return Frame('front', image, P, 0, 'front_optical')


@pytest.mark.parametrize('scale', [0.5, 1.0, 2.0])
def test_resolution_does_not_matter(scale):
    assert lens_mismatch(trained_lens(spec()), frame(scale=scale)) == ''


@pytest.mark.parametrize(
    ('zoom', 'in_range'), [(0.55, False), (0.65, True), (1.35, True), (1.5, False)]
)
def test_range_of_a_model_of_virtual_depth(zoom, in_range):
    assert (lens_mismatch(trained_lens(spec()), frame(zoom)) == '') is in_range


@pytest.mark.parametrize(
    ('zoom', 'in_range'), [(0.85, False), (0.95, True), (1.05, True), (1.15, False)]
)
def test_range_of_a_model_of_plain_depth(zoom, in_range):
    assert (lens_mismatch(trained_lens(spec(virtual_focal_px=0)), frame(zoom)) == '') is in_range


def test_focal_length_in_the_provenance():
    focal_px = 2 * 721.5377 * 512 / 1242
    assert lens_mismatch(trained_lens(spec(focal_px=focal_px)), frame(2.0)) == ''
    assert 'the focal length is 0.50 times that of' in lens_mismatch(
        trained_lens(spec(focal_px=focal_px)), frame()
    )


def test_cropped_and_wide_images():
    """The upper part of KITTI's image has the same lens; a 16:9 image of 80 degrees has not."""
    assert lens_mismatch(trained_lens(spec()), frame(height=300)) == ''
    warning = lens_mismatch(
        trained_lens(spec()), frame(zoom=1080 / 721.5377, height=1080, width=1920)
    )
    assert '0.54 times that of the training camera (160 and 297 px' in warning


def test_predictor_without_a_canvas_has_no_training_camera():
    assert trained_lens(SimpleNamespace(classes=('Car',))) is None
    assert lens_mismatch(None, frame(9.0)) == ''
