import cv2
import numpy as np
import pytest

from stl_core import preprocessing
from stl_core.geometry import project_points


def test_a_drawn_point_stays_under_its_projection():
    """The centre of mass of a blob moves exactly as P predicts, at any scale."""
    P = np.array([[700.0, 0, 600, 40], [0, 700, 180, 0.2], [0, 0, 1, 0.003]])
    point = np.array([3.0, 1.0, 20.0])
    (u, v), _ = project_points(point, P)
    yy, xx = np.mgrid[:375, :1242]
    blob = 255 * np.exp(-((xx - u) ** 2 + (yy - v) ** 2) / (2 * 12**2))
    image = np.repeat(blob[..., None], 3, 2).astype(np.uint8)
    for width, height in ((1280, 384), (640, 192), (320, 96), (512, 512)):
        spec = preprocessing.InputSpec(width, height)
        canvas, canvas_P = preprocessing.preprocess_image(image, P, spec)
        assert canvas.shape == (height, width, 3)
        mass = canvas[..., 0].astype(float)
        yy, xx = np.mgrid[:height, :width]
        centroid = np.array([(mass * xx).sum(), (mass * yy).sum()]) / mass.sum()
        expected, _ = project_points(point, canvas_P)
        np.testing.assert_allclose(centroid, expected, atol=0.05)


def test_letterbox_keeps_the_aspect_ratio_and_centres():
    A = preprocessing.letterbox_affine(1000, 500, preprocessing.InputSpec(640, 192))
    assert A[0, 0] == A[1, 1] == 192 / 500
    corners = A @ np.array([[-0.5, 999.5], [-0.5, 499.5], [1, 1]])
    np.testing.assert_allclose(corners[0], [128 - 0.5, 512 - 0.5])
    np.testing.assert_allclose(corners[1], [-0.5, 191.5])


def test_an_image_of_canvas_size_is_unchanged():
    image = np.random.default_rng(0).integers(0, 255, (96, 320, 3), np.uint8)
    canvas, P = preprocessing.preprocess_image(
        image, np.eye(3, 4), preprocessing.InputSpec(320, 96)
    )
    np.testing.assert_array_equal(canvas, image)
    np.testing.assert_array_equal(P, np.eye(3, 4))


def test_small_details_are_averaged_not_aliased_away():
    image = np.zeros((768, 2560, 3), np.uint8)
    image[:, ::4] = 255  # one bright column in four
    canvas, _ = preprocessing.preprocess_image(
        image, np.eye(3, 4), preprocessing.InputSpec(320, 96)
    )
    inner = canvas[20:-20, 20:-20].astype(float)
    assert abs(inner.mean() - 255 / 4) < 3
    assert inner.std() < 3


@pytest.mark.parametrize('shape', [(10, 10), (10, 10, 4)])
def test_images_of_wrong_shape_or_dtype_are_rejected(shape):
    with pytest.raises(ValueError, match='expected an'):
        preprocessing.preprocess_image(
            np.zeros(shape, np.uint8), np.eye(3, 4), preprocessing.InputSpec()
        )
    with pytest.raises(ValueError, match='float64'):
        preprocessing.preprocess_image(
            np.zeros((9, 9, 3)), np.eye(3, 4), preprocessing.InputSpec()
        )


def test_canvas_size_must_be_a_multiple_of_the_deepest_stride():
    with pytest.raises(ValueError, match='multiples of 32'):
        preprocessing.InputSpec(1242, 375)


def test_unknown_given_depth_is_refused():
    assert preprocessing.InputSpec().given_depth == ''
    with pytest.raises(ValueError, match="given_depth: expected '' or 'scan' or 'objects'"):
        preprocessing.InputSpec(given_depth='boxes')


def test_large_images_shrink_like_area_averaging():
    image = np.random.default_rng(1).integers(0, 255, (384, 1280, 3), np.uint8)
    canvas, _ = preprocessing.preprocess_image(
        image, np.eye(3, 4), preprocessing.InputSpec(320, 96)
    )
    area = cv2.resize(image, (320, 96), interpolation=cv2.INTER_AREA)
    assert np.abs(canvas.astype(int) - area).max() <= 1
