import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stl_core import geometry
from stl_core.types import Camera, Objects3D

KITTI_P2 = np.array(
    [
        [721.5377, 0.0, 609.5593, 44.85728],
        [0.0, 721.5377, 172.854, 0.2163791],
        [0.0, 0.0, 1.0, 0.002745884],
    ]
)


def objects(count, seed=0):
    rng = np.random.default_rng(seed)
    return Objects3D(
        class_id=rng.integers(0, 3, count),
        score=rng.uniform(0, 1, count),
        center_m=rng.uniform([-30, -2, 2], [30, 3, 80], (count, 3)),
        size_hwl_m=rng.uniform(0.3, 5, (count, 3)),
        rotation_y=rng.uniform(-np.pi, np.pi, count),
        box_px=rng.uniform([0, 0, 300, 300], [300, 300, 600, 600], (count, 4)),
        depth_sigma_m=rng.uniform(0.1, 5, count),
    )


def assert_same(a, b, atol=1e-9):
    for name in Objects3D.FIELD_SHAPES:
        left, right = getattr(a, name), getattr(b, name)
        if name == 'rotation_y':
            left, right = np.zeros_like(left), geometry.wrap_angle(left - right)
        np.testing.assert_allclose(left, right, atol=atol, err_msg=name)


@given(arrays(np.float64, (5, 2), elements=st.floats(-2000, 2000)), st.integers(0, 99))
def test_backproject_inverts_project_for_every_P(pixels, seed):
    rng = np.random.default_rng(seed)
    P = KITTI_P2 + rng.normal(scale=0.05, size=(3, 4)) * [[9, 9, 9, 9], [9, 9, 9, 9], [0.01] * 4]
    depth = rng.uniform(1, 90, 5)
    points = geometry.backproject_pixels(pixels, depth, P)
    np.testing.assert_allclose(points[:, 2], depth)
    reprojected, _ = geometry.project_points(points, P)
    np.testing.assert_allclose(reprojected, pixels, atol=1e-6)


def flip_P(P, width_px):
    """Return the projection of the mirrored world, x -> -x, to the mirrored image."""
    mirror = np.array([[-1.0, 0.0, width_px - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return mirror @ P @ np.diag([-1.0, 1.0, 1.0, 1.0])


def test_project_is_the_matrix_product():
    point = np.array([1.5, -0.3, 20.0])
    u, v, w = KITTI_P2 @ [*point, 1.0]
    pixels, depth = geometry.project_points(point, KITTI_P2)
    np.testing.assert_allclose(pixels, [u / w, v / w])
    assert depth == w


@pytest.mark.parametrize('seed', range(5))
def test_lift_inverts_project_objects_under_scale_crop_and_mirror(seed):
    rng = np.random.default_rng(seed)
    A = np.array(
        [[rng.uniform(0.2, 2), 0, rng.normal() * 99], [0, rng.uniform(0.2, 2), 7], [0, 0, 1]]
    )
    for P in (KITTI_P2, geometry.warp_P(KITTI_P2, A), flip_P(KITTI_P2, 1242)):
        original = objects(200, seed)
        assert_same(geometry.lift(geometry.project_objects(original, P), P), original)


def test_lift_and_project_objects_of_no_objects():
    empty = Objects3D.empty()
    assert len(geometry.lift(geometry.project_objects(empty, KITTI_P2), KITTI_P2)) == 0


def test_depth_sigma_zero_of_labels_survives_the_round_trip():
    exact = Objects3D(**{**vars(objects(3)), 'depth_sigma_m': np.zeros(3)})
    image_objects = geometry.project_objects(exact, KITTI_P2)
    assert np.isneginf(image_objects.depth_log_sigma).all()
    assert (geometry.lift(image_objects, KITTI_P2).depth_sigma_m == 0).all()


def test_a_mirrored_world_projects_to_the_mirrored_image():
    original, width = objects(50), 1242
    mirrored = geometry.flip_objects(original, width)
    P = flip_P(KITTI_P2, width)
    before, _ = geometry.project_points(geometry.box_corners(*parts(original)), KITTI_P2)
    after, _ = geometry.project_points(geometry.box_corners(*parts(mirrored)), P)
    before[..., 0] = width - 1 - before[..., 0]
    # the corners are the same points, numbered from the other side of the car
    for a, b in zip(before, after, strict=True):
        order_a, order_b = np.lexsort(a.T.round(6)), np.lexsort(b.T.round(6))
        np.testing.assert_allclose(a[order_a], b[order_b], atol=1e-6)
    assert P[0, 0] > 0
    assert_same(geometry.flip_objects(mirrored, width), original)
    np.testing.assert_allclose(flip_P(P, width), KITTI_P2, atol=1e-9)


def parts(o):
    return o.center_m, o.size_hwl_m, o.rotation_y


def test_corners_span_the_size_and_rotate_as_in_KITTI():
    center, size = np.array([[1.0, 2.0, 10.0]]), np.array([[1.5, 1.6, 4.0]])
    box = geometry.box_corners(center, size, np.array([0.0]))[0]
    np.testing.assert_allclose(np.ptp(box, axis=0), [4.0, 1.5, 1.6])  # length along x at 0
    np.testing.assert_allclose(box.mean(0), center[0])
    rotated = geometry.box_corners(center, size, np.array([-np.pi / 2]))[0]
    np.testing.assert_allclose(np.ptp(rotated, axis=0), [1.6, 1.5, 4.0])  # ahead at -90 degrees
    front = rotated[[0, 1, 4, 5]].mean(0) - center[0]
    np.testing.assert_allclose(front, [0, 0, 2.0], atol=1e-12)  # the front faces +z


def test_box_has_twelve_edges_of_the_right_lengths():
    box = geometry.box_corners(np.zeros((1, 3)), np.array([[1.0, 2.0, 4.0]]), np.zeros(1))[0]
    lengths = sorted(np.linalg.norm(box[a] - box[b]) for a, b in geometry.BOX_EDGES)
    np.testing.assert_allclose(lengths, [1] * 4 + [2] * 4 + [4] * 4)
    assert len({frozenset(edge) for edge in geometry.BOX_EDGES}) == 12


def test_real_labels_alpha_is_yaw_less_the_bearing(mono3d_data):
    """KITTI's annotated alpha independently confirms yaw, projection and centre."""
    from stl_core.data.sources import kitti

    errors = []
    for path in sorted((mono3d_data / 'training/label_2').glob('*.txt')):
        labels = kitti.read_labels(path)
        labels = labels[labels.name == 'Car']
        image_objects = geometry.project_objects(labels.to_objects(('Car',)), KITTI_P2)
        errors.extend(np.abs(geometry.wrap_angle(image_objects.alpha - labels.alpha)))
    assert np.median(errors) < 0.01


def test_height_intersection():
    a, b = np.array([[0.0, 2.0], [0.0, 2.0]]), np.array([[0.5, 1.0], [3.0, 1.0]])
    np.testing.assert_allclose(geometry.height_intersection(a, b), [1.0, 0.0])


@pytest.mark.parametrize('matrix', [np.eye(3), np.full((3, 4), np.nan)])
def test_camera_rejects_an_invalid_projection(matrix):
    with pytest.raises(ValueError, match=r'\(3, 4\)'):
        Camera(matrix, 10, 10)


def test_fields_of_different_length_are_rejected():
    fields = vars(objects(3))
    with pytest.raises(ValueError, match='score has 2 rows where others have 3'):
        Objects3D(**{**fields, 'score': np.zeros(2)})
    with pytest.raises(ValueError, match='center_m must have shape'):
        Objects3D(**{**fields, 'center_m': np.zeros((3, 2))})
