"""Projections that are no camera's are refused; real and cropped ones are not."""

import re

import numpy as np
import pytest

from stl_core.data.checks.projection import picture_fault, picture_warning, projection_fault

KITTI = np.array(
    [[721.5377, 0, 609.5593, 44.85728], [0, 721.5377, 172.854, 0.2163791], [0, 0, 1, 0.002745884]]
)
WIDTH, HEIGHT = 1242, 375
RIGHT = KITTI + [[0, 0, 0, -384.2], [0, 0, 0, 2], [0, 0, 0, 0]]


def scaled(across, down):
    return np.diag([across, down, 1.0]) @ KITTI


def shifted(right, down):
    A = np.eye(3)
    A[:2, 2] = right, down
    return A @ KITTI


@pytest.mark.parametrize(
    'P',
    [KITTI, RIGHT, scaled(0.32, 0.32), scaled(0.5, 0.8), np.diag([50.0, 50, 1]) @ np.eye(3, 4)],
)
def test_cameras_have_no_fault(P):
    assert projection_fault(P) == ''


@pytest.mark.parametrize(
    ('P', 'message'),
    [
        (np.eye(3, 4), 'focal lengths 1 and 1; expected pixels'),
        (np.diag([1 / WIDTH, 1 / HEIGHT, 1]) @ KITTI, 'focal lengths 0.58.* not a fraction'),
        (KITTI.T.reshape(3, 4), 'has the last row 1 44.8573 .*; expected 0 0 1 t'),
        (KITTI * [[1], [1], [0]], 'has the last row 0 0 0 0; expected 0 0 1 t'),
        (2 * KITTI, 'has 2 where the last row has 1: divide its 12 numbers by 2'),
        (KITTI @ [[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], 'has the last row 1'),
        (KITTI[:, [0, 2, 1, 3]], 'has the last row 0 1 0'),
        (KITTI[[1, 0, 2]], 'focal lengths 0 and 0'),
        (KITTI * [[-1], [1], [1]], 'focal lengths -721.538'),
        (KITTI + [[0, 30, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], 'has 30 where a rectified camera'),
        (scaled(0.1, 1), 'too different'),
        (KITTI + [[0, 0, 0, 1e6], [0, 0, 0, 0], [0, 0, 0, 0]], 'an offset of 1385'),
        (KITTI * np.nan, 'not finite'),
        (np.full((3, 4), np.inf), 'not finite'),
    ],
)
def test_matrices_that_are_no_rectified_camera_are_described(P, message):
    assert re.search(message, projection_fault(P)), projection_fault(P)


@pytest.mark.parametrize(
    ('P', 'size'),
    [
        (KITTI, (WIDTH, HEIGHT)),
        (KITTI, (1224, 370)),
        (shifted(0, -150), (WIDTH, 200)),  # the sky cut off
        (shifted(-500, 0), (WIDTH - 500, HEIGHT)),  # the left cut off
        (scaled(0.32, 0.32), (397, 120)),
    ],
)
def test_cropped_and_resized_pictures_have_no_fault(P, size):
    assert picture_fault(P, *size) == ''
    assert picture_warning(P, *size) == ''


@pytest.mark.parametrize('factor', [2, 3, 4, 8])
def test_a_projection_of_a_larger_picture_is_described(factor):
    """At twice the size, KITTI's principal point lies just inside the small picture."""
    size = (WIDTH // factor, HEIGHT // factor)
    text = picture_fault(KITTI, *size) or picture_warning(KITTI, *size)
    guess = re.search(r'of a picture ([\d.]+) times as large', text)
    assert float(guess[1]) == pytest.approx(factor, rel=0.1)
    assert bool(picture_fault(KITTI, *size)) == (factor > 2)


def test_a_projection_of_a_smaller_picture_is_described():
    text = picture_warning(scaled(0.5, 0.5), WIDTH, HEIGHT)
    assert 'in the corner of the picture of 1242x375: of a picture 0.48 times as large?' in text


def test_a_principal_point_outside_and_a_focal_length_of_another_lens_are_described():
    assert 'at 610 173, outside the picture of 500x375' in picture_fault(KITTI, 500, 375)
    assert 'outside the picture' in picture_fault(shifted(-700, 0), WIDTH, HEIGHT)
    P = np.diag([0.05, 0.05, 1]) @ KITTI
    P[:2, 2] = 600, 180
    assert 'impossible for a picture of 1242x375' in picture_fault(P, WIDTH, HEIGHT)
