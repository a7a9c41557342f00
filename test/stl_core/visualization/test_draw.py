"""Drawing: boxes behind the camera, far out or absent; the input image stays unchanged."""

import cv2
import numpy as np
import pytest

from stl_core.geometry import project_points
from stl_core.types import Objects3D
from stl_core.visualization import charts, draw
from stl_core.visualization.birds_eye import draw_birds_eye
from stl_core.visualization.style import class_colour

P = np.array([[700.0, 0, 600, 45], [0, 700, 180, 0.3], [0, 0, 1, 0.005]])
IMAGE = np.full((375, 1242, 3), 100, np.uint8)


def car(x=0.0, z=12.0, yaw=0.0):
    return Objects3D(
        class_id=[0],
        score=[0.87],
        center_m=[[x, 0.9, z]],
        size_hwl_m=[[1.5, 1.6, 4.0]],
        rotation_y=[yaw],
        box_px=np.zeros((1, 4)),
        depth_sigma_m=[0.0],
    )


def test_a_box_is_drawn_where_it_projects_and_the_image_stays_as_it_was():
    before = IMAGE.copy()
    edges, labels = draw.box_edges(car()), draw.box_labels(car(), ('Car',))
    drawn = draw.draw_edges(IMAGE, edges, P, [class_colour('Car')], labels)
    np.testing.assert_array_equal(IMAGE, before)
    rows, columns = np.nonzero((drawn != IMAGE).any(2))
    pixels = project_points(draw.box_edges(car())[0], P)[0]
    assert columns.min() == pytest.approx(pixels[:, 0].min(), abs=4)
    assert columns.max() == pytest.approx(pixels[:, 0].max(), abs=4)
    assert rows.max() == pytest.approx(pixels[:, 1].max(), abs=4)
    assert (drawn == class_colour('Car')).all(2).sum() > 50


def test_edges_behind_the_camera_are_clipped_at_the_near_plane():
    edges = draw.box_edges(car(x=1.5, z=1.0, yaw=np.pi / 2))[0]
    assert edges[:, 2].min() < 0
    segments = draw.visible_segments(edges, P)
    assert 0 < len(segments) <= 12
    assert np.isfinite(segments).all()
    # the near end of a clipped edge lies on the plane: it projects like that point
    back, front = edges[np.argmin(edges[:, 2])], edges[np.argmax(edges[:, 2])]
    t = (draw.NEAR_M - back[2]) / (front[2] - back[2])
    clipped = draw.visible_segments(np.array([back, front]), P)[0, 0]
    np.testing.assert_allclose(clipped, project_points(back + t * (front - back), P)[0])
    assert len(draw.visible_segments(edges - [0, 0, 10], P)) == 0


@pytest.mark.parametrize('objects', [Objects3D.empty(), car(z=-5.0), car(x=900.0), car(x=0, z=0)])
def test_frames_without_visible_boxes_are_drawn(objects):
    drawn = draw.draw_frame(
        IMAGE,
        P,
        draw.box_edges(objects),
        [class_colour('Car')] * len(objects),
        draw.box_labels(objects, ('Car',)),
        truth_edges_m=draw.box_edges(objects),
        points_m=np.array([[0.0, 0, 5], [0, 0, -5], [1e6, 0, 1e6]]),
        caption='frame 0',
    )
    assert drawn.dtype == np.uint8
    assert drawn.shape[0] % 2 == drawn.shape[1] % 2 == 0


@pytest.mark.parametrize('size', [(375, 1242), (1080, 1920), (96, 320), (720, 405), (37, 51)])
def test_images_of_every_shape_are_scaled_for_display(size):
    large, large_P = draw.scale_for_display(np.zeros((*size, 3), np.uint8), P)
    assert 480 <= large.shape[0] <= 720
    point = np.array([[0.4, 0.3, 9.0]])
    (u, v), (large_u, large_v) = (
        project_points(point, P)[0][0],
        project_points(point, large_P)[0][0],
    )
    assert (large_u + 0.5) / (u + 0.5) == pytest.approx(large.shape[1] / size[1])
    assert (large_v + 0.5) / (v + 0.5) == pytest.approx(large.shape[0] / size[0])


def test_the_birds_eye_view_has_forward_up_and_right_on_the_right():
    colour = class_colour('Car')
    bev_image = draw_birds_eye(draw.box_edges(car(x=10.0, z=20.0)), [colour], size_px=500)
    rows, columns = np.nonzero((bev_image == colour).all(2))
    scale = (500 - 16) / 70
    # the front, two metres ahead of the centre and to the right at yaw 0, is the solid line
    assert columns.mean() == pytest.approx(250 + 12 * scale, abs=4)
    assert rows.mean() == pytest.approx(492 - 20 * scale, abs=4)


def test_a_contact_sheet_holds_pictures_of_any_size():
    pictures = [np.full((h, w, 3), 255, np.uint8) for h, w in ((10, 40), (30, 40), (7, 3))]
    sheet = draw.contact_sheet(pictures, columns=2, width_px=80)
    assert sheet.shape == (60 + 8 + 187 + 8, 168, 3)


def test_a_histogram_of_one_value_is_written(tmp_path):
    charts.plot_histogram([5.0], 'ms', 'latency', tmp_path / 'a/h.png')
    assert cv2.imread(str(tmp_path / 'a/h.png')) is not None
