"""Augmentation keeps pixels, depth, points, boxes and P consistent for all drawn parameters."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stl_core.data import augmentation, colour_jitter
from stl_core.geometry import box_corners, lift, project_objects, project_points
from stl_core.preprocessing import InputSpec, preprocess_image
from stl_core.types import Objects3D

SPEC = InputSpec(512, 160)
WIDTH, HEIGHT = 1242, 375
P = np.array([[721.5, 0, 609.6, 44.9], [0, 721.5, 172.9, 0.2], [0, 0, 1, 0.003]])

augmentation_params = st.builds(
    augmentation.AugmentationParams,
    mirror=st.booleans(),
    zoom=st.floats(0.6, 1.4),
    shift=st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)),
    shift_px=st.tuples(st.floats(-16, 16), st.floats(-16, 16)),
)


def one_car(x, z):
    return Objects3D(
        class_id=np.array([0]),
        score=np.ones(1),
        center_m=np.array([[x, 1.0, z]]),
        size_hwl_m=np.array([[1.5, 1.6, 3.9]]),
        rotation_y=np.array([0.7]),
        box_px=np.array([[500.0, 150.0, 700.0, 250.0]]),
        depth_sigma_m=np.zeros(1),
    )


def make_sample(x, z):
    """A grey image with a white square, of the car's depth, at the projected LiDAR point."""
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    depth_m = np.zeros((HEIGHT, WIDTH), np.float32)
    objects = one_car(x, z)
    ((u, v),) = np.round(project_points(objects.center_m, P)[0]).astype(int)
    image[v - 6 : v + 7, u - 6 : u + 7] = 255
    depth_m[v - 6 : v + 7, u - 6 : u + 7] = z
    return augmentation.AugmentationSample(image, P, objects, depth_m, objects.center_m.copy())


@settings(deadline=None)
@given(augmentation_params, st.floats(-5, 5), st.floats(12, 50))
def test_pixels_depth_points_and_objects_agree_under_the_new_projection(params, x, z):
    canvas = augmentation.apply_augmentation(make_sample(x, z), SPEC, params)
    np.testing.assert_allclose(canvas.objects.center_m, canvas.points_m)
    ((u, v),) = project_points(canvas.points_m, canvas.P)[0]
    if not (8 < u < SPEC.width_px - 9 and 8 < v < SPEC.height_px - 9):
        return
    # the square covers whole pixels of the image and is measured in whole pixels of the canvas;
    # OpenCV warps to 1/32 pixel
    limit = 0.5 * canvas.P[0, 0] / P[0, 0] + 0.5 + 1 / 32
    rows, columns = np.nonzero(canvas.image[..., 0] > 160)
    assert max(abs(columns.mean() - u), abs(rows.mean() - v)) < limit
    rows, columns = np.nonzero(canvas.depth_m)
    assert set(canvas.depth_m[rows, columns]) == {np.float32(z)}  # copied, not interpolated
    assert max(abs(columns.mean() - u), abs(rows.mean() - v)) < limit


@settings(deadline=None)
@given(augmentation_params, st.floats(-5, 5), st.floats(12, 50))
def test_boxes_survive_projection_and_lifting_and_mirror_correctly(params, x, z):
    sample = make_sample(x, z)
    canvas = augmentation.apply_augmentation(sample, SPEC, params)
    lifted = lift(project_objects(canvas.objects, canvas.P), canvas.P)
    np.testing.assert_allclose(lifted.center_m, canvas.objects.center_m, atol=1e-9)
    new, _ = project_points(
        box_corners(lifted.center_m, lifted.size_hwl_m, lifted.rotation_y)[0], canvas.P
    )
    old, _ = project_points(
        box_corners(sample.objects.center_m, sample.objects.size_hwl_m, sample.objects.rotation_y)[
            0
        ],
        P,
    )
    A = augmentation.augmentation_affine(WIDTH, HEIGHT, P, SPEC, params)
    moved = old * A[[0, 1], [0, 1]] + A[:2, 2]
    # mirroring changes the order of the corners
    np.testing.assert_allclose(
        new[np.lexsort(new.T.round(6))], moved[np.lexsort(moved.T.round(6))], atol=1e-6
    )


def test_identity_augmentation_equals_the_preprocessing_of_the_predictor():
    sample = make_sample(2.0, 20.0)
    canvas = augmentation.apply_augmentation(sample, SPEC, augmentation.AugmentationParams())
    image, new_P = preprocess_image(sample.image, P, SPEC)
    np.testing.assert_array_equal(canvas.image, image)
    np.testing.assert_allclose(canvas.P, new_P)


@pytest.mark.parametrize('mirror', [False, True])
def test_zoom_scales_the_focal_length_only(mirror):
    sample = make_sample(2.0, 20.0)
    plain = augmentation.apply_augmentation(sample, SPEC, augmentation.AugmentationParams(mirror))
    zoomed = augmentation.apply_augmentation(
        sample, SPEC, augmentation.AugmentationParams(mirror, zoom=1.3)
    )
    longer_lens = plain.P[:, :3] * [[1.3, 1.0, 1.0], [1.0, 1.3, 1.0], [1.0, 1.0, 1.0]]
    np.testing.assert_allclose(zoomed.P[:, :3], longer_lens, atol=1e-9)


def test_zoom_keeps_the_image_if_the_principal_point_is_outside():
    sample = make_sample(2.0, 20.0)
    P_outside = np.array([[721.5, 0, 40000.0, 0], [0, 721.5, -9000.0, 0], [0, 0, 1, 0]])
    canvas = augmentation.apply_augmentation(
        dataclasses.replace(sample, P=P_outside), SPEC, augmentation.AugmentationParams(zoom=1.4)
    )
    assert (canvas.image > 0).mean() > 0.9


def test_2d_boxes_are_clipped_to_the_image():
    params = augmentation.AugmentationParams(zoom=1.4, shift=(0.45, 0.0))
    canvas = augmentation.apply_augmentation(make_sample(2.0, 20.0), SPEC, params)
    assert canvas.objects.box_px[0, 2] == SPEC.width_px - 1
    shrunk = augmentation.apply_augmentation(
        make_sample(2.0, 20.0), SPEC, augmentation.AugmentationParams(zoom=0.5)
    )
    assert (shrunk.objects.box_px[0] < SPEC.width_px * 0.75).all()


def test_draws_stay_in_bounds_and_depend_on_the_seed_only():
    config = augmentation.Config(flip=0.5, crop=0.7, scale=0.3, shift=0.1, colour=0.2)
    drawn = [
        augmentation.draw_augmentation(config, np.random.default_rng([1, i])) for i in range(500)
    ]
    again = [
        augmentation.draw_augmentation(config, np.random.default_rng([1, i])) for i in range(500)
    ]
    assert drawn == again
    assert 0.4 < np.mean([d.mirror for d in drawn]) < 0.6
    assert 0.6 < np.mean([d.zoom != 1 for d in drawn]) < 0.8
    assert all(0.7 <= d.zoom <= 1.3 and max(map(abs, d.shift)) <= 0.2 for d in drawn)
    assert all(0.8 <= factor <= 1.2 for d in drawn for factor in d.colour.factors)
    assert (
        augmentation.draw_augmentation(augmentation.Config(flip=0.0), np.random.default_rng(0))
        == augmentation.AugmentationParams()
    )


@pytest.mark.parametrize(
    ('factors', 'expected'),
    [((0.5, 1.0, 1.0), (100, 50, 25)), ((1.0, 1.0, 0.0), (124, 124, 124))],
)
def test_jitter_colour_matches_hand_computed_values(factors, expected):
    image = np.full((4, 4, 3), (200, 100, 50), np.uint8)
    result = colour_jitter.jitter_colour(image, *factors)[0, 0].astype(int)
    # grey of (200, 100, 50) is 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2
    np.testing.assert_allclose(result, expected, atol=1)


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('flip', 1.5, '0 to 1'),
        ('crop', -0.1, '0 to 1'),
        ('colour', 2.0, '0 to 1'),
        ('scale', 1.0, 'at least 0, less than 1'),
        ('scale', -0.5, 'at least 0, less than 1'),
        ('shift', -0.1, 'at least 0'),
        ('shift_down', -0.1, 'at least 0'),
        ('window', 1.5, '0 to 1'),
        ('swap', -0.5, '0 to 1'),
        ('hue', 200.0, '0 to 180 degrees'),
    ],
)
def test_invalid_strengths_raise_value_error(name, value, expected):
    with pytest.raises(ValueError, match=f'{name}: expected {expected}, got {value}'):
        augmentation.Config(**{name: value})


def test_a_window_needs_a_size():
    with pytest.raises(ValueError, match='window_px: expected at least 1 pixel each, got None'):
        augmentation.Config(window=0.5)


def test_options_that_are_off_leave_the_draws_of_earlier_versions():
    """Configurations without the newer options give the samples that they always gave."""
    rng, count = np.random.default_rng(7), 50
    config = augmentation.Config(flip=0.5, crop=0.7, scale=0.3, shift=0.1, colour=0.2)
    for _ in range(count):
        drawn = augmentation.draw_augmentation(config, rng)
    expected = np.random.default_rng(7)
    for _ in range(count):
        expected.random()
        if expected.random() < 0.7:
            zoom = np.clip(expected.normal(1, 0.3), 0.7, 1.3)
            shift = np.clip(expected.normal(0, 0.1, 2), -0.2, 0.2)
        factors = expected.uniform(0.8, 1.2, 3)
    assert drawn.colour == colour_jitter.ColourParams(tuple(factors))
    assert (drawn.zoom, drawn.shift) in [(zoom, tuple(shift)), (1.0, (0.0, 0.0))]
    assert rng.random() == expected.random()


def test_published_draws_have_the_published_distributions():
    """MonoDLE: the inverse of the zoom; MonoCon: shifts uniform in pixels, window, channels."""
    monodle = augmentation.Config(crop=1.0, scale=0.4, inverse_zoom=True, shift_down=0.0)
    monocon = augmentation.Config(
        crop=1.0, scale=0.0, shift_px=(32, 16), window=0.5, window_px=(960, 320), hue=18, swap=0.5
    )
    first = [
        augmentation.draw_augmentation(monodle, np.random.default_rng(i)) for i in range(2000)
    ]
    assert min(d.zoom for d in first) == pytest.approx(1 / 1.4)
    assert max(d.zoom for d in first) == pytest.approx(1 / 0.6)
    assert np.std([d.shift[0] for d in first]) == pytest.approx(0.095, abs=0.01)
    assert all(d.shift[1] == 0 for d in first)
    other = [
        augmentation.draw_augmentation(monocon, np.random.default_rng(i)) for i in range(2000)
    ]
    shifts = np.array([d.shift_px for d in other])
    assert (np.abs(shifts) <= [32, 16]).all()
    np.testing.assert_allclose(shifts.std(0), np.array([32, 16]) / np.sqrt(3), rtol=0.05)
    assert np.mean([d.window is not None for d in other]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([d.colour.hue_deg != 0 for d in other]) == pytest.approx(0.5, abs=0.05)
    # one of six random orders is the order of the image
    share = np.mean([d.colour.channels != (0, 1, 2) for d in other])
    assert share == pytest.approx(0.5 * 5 / 6, abs=0.05)


def test_a_window_hides_pixels_depth_and_objects_outside_of_it():
    sample = make_sample(2.0, 20.0)
    boxes = [[500.0, 150.0, 700.0, 250.0], [10.0, 150.0, 60.0, 250.0], [0.0, 150.0, 300.0, 250.0]]
    rows = dataclasses.replace(sample.objects[[0, 0, 0]], box_px=np.array(boxes))
    sample = dataclasses.replace(sample, objects=rows)
    cut = augmentation.cut_window(sample, (0.5, 1.0, 960, 320))  # columns 141 to 1100, rows 55 on
    assert cut.image[55, 141].tolist() == cut.image[-1, 1100].tolist() == [60, 60, 60]
    assert not cut.image[:55].any()
    assert not cut.image[:, :141].any()
    assert not cut.image[:, 1101:].any()
    np.testing.assert_array_equal(cut.depth_m, sample.depth_m)  # all of it lies inside
    # the second box is outside, the third half inside
    np.testing.assert_array_equal(cut.objects.box_px, [boxes[0], [141.0, 150.0, 300.0, 250.0]])
    left = augmentation.cut_window(sample, (0.0, 1.0, 100, 320))
    assert not left.depth_m.any()
    np.testing.assert_array_equal(left.objects.box_px, [boxes[1], [0.0, 150.0, 99.0, 250.0]])


def test_a_window_without_objects_leaves_the_image_whole():
    sample = make_sample(2.0, 20.0)
    assert augmentation.cut_window(sample, (0.0, 0.0, 200, 100)) is sample
    empty = dataclasses.replace(sample, objects=sample.objects[[]])
    assert not augmentation.cut_window(empty, (0.0, 0.0, 200, 100)).image[100:].any()


@pytest.mark.parametrize(
    ('params', 'expected'),
    [
        (colour_jitter.ColourParams(hue_deg=120), (50, 200, 50)),  # red becomes green
        (colour_jitter.ColourParams(hue_deg=-120), (50, 50, 200)),
        (colour_jitter.ColourParams(channels=(2, 0, 1)), (50, 200, 50)),
    ],
)
def test_hue_and_channels_match_hand_computed_values(params, expected):
    image = np.full((4, 4, 3), (200, 50, 50), np.uint8)
    changed = colour_jitter.change_colour(image, params)[0, 0].astype(int)
    np.testing.assert_allclose(changed, expected, atol=5)  # a step of hue is 3.5
