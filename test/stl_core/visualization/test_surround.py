"""Pictures of all cameras of a vehicle beside the ground."""

import numpy as np

from stl_core.visualization.surround import SurroundView, draw_ground, draw_surround, draw_view

P = np.array([[100.0, 0, 60, 0], [0, 100, 30, 0], [0, 0, 1, 0]])
CAR = np.array([[[2.0, 1], [2, -1], [-2, -1], [-2, 1]]])


def view(points_m):
    image = np.full((60, 120, 3), 90, np.uint8)
    return SurroundView('CAM', image, P, np.zeros((0, 24, 3)), [], np.array(points_m, float))


def test_points_are_drawn_where_they_project_and_none_from_behind():
    drawn = draw_view(view([[1.0, 1.0, 10.0], [-2.0, 0.5, 25.0], [0, 0, -5.0], [99, 0, 10]]))
    assert drawn[40, 70].tolist() == [51, 204, 0]
    assert drawn[32, 52].tolist() == [127, 127, 0]
    below = drawn[20:]
    assert (below != 90).any(2).sum() == 2


def test_the_ground_shows_ahead_up_and_left_left():
    drawn = draw_ground(CAR + [10.0, 20.0], [(255, 0, 0)], np.zeros((0, 2)), 200, 50.0)
    rows, columns = np.nonzero((drawn[..., 0] > 150) & (drawn[..., 1] < 60))
    assert 75 <= rows.min() <= rows.max() <= 85  # 10 m ahead: 20 px above the middle
    assert 57 <= columns.min() <= columns.max() <= 63  # 20 m to the left


def test_six_views_stand_in_two_rows_beside_the_ground():
    picture = draw_surround([view([[0, 0, 9.0]])] * 6, CAR, [(0, 255, 0)], np.ones((3, 3)))
    assert picture.shape == (120, 3 * 120 + 120, 3)
