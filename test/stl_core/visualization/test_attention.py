"""Pictures of attention among objects and cells."""

import numpy as np
import pytest

from stl_core.visualization.attention import cell_attention_picture, object_attention_picture

IMAGE = np.full((60, 200, 3), 90, np.uint8)
BOXES = np.array([[10, 10, 40, 50], [80, 20, 110, 45], [150, 15, 190, 55]], float)
BAR = 26


def panel(attention, boxes=BOXES):
    return object_attention_picture(IMAGE, boxes, {'teacher': attention}, 400)[BAR:]


def test_a_line_is_as_opaque_as_the_greater_attention_of_two_objects():
    attention = np.eye(3)
    attention[0, :2] = 0.2, 0.8
    lines = panel(attention)
    plain = panel(np.eye(3))
    between = np.s_[58:72, 120:140]  # halfway between the first two boxes
    change = np.abs(lines[between].astype(int) - plain[between]).max()
    weak = np.eye(3)
    weak[1, :2] = 0.2, 0.8
    assert 0 < np.abs(panel(weak)[between].astype(int) - plain[between]).max() < change
    other = np.s_[40:80, 240:280]  # between the second and the third
    np.testing.assert_array_equal(lines[other], plain[other])


def test_the_matrix_is_brighter_where_attention_is_larger():
    attention = np.array([[0.7, 0.3, 0.0], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0]])
    matrix = panel(attention)[:, 400:].astype(float).sum(2)
    assert matrix.shape == (120, 120)
    corners = [[matrix[5 + 39 * i, 5 + 39 * j] for j in range(3)] for i in range(3)]
    assert corners[2][2] > corners[1][1] > corners[0][0] > corners[0][1] > corners[1][0]
    assert corners[1][0] > corners[0][2]
    assert corners[0][2] == corners[2][0]


def test_panels_are_stacked_and_arguments_unchanged():
    image, boxes = IMAGE.copy(), BOXES.copy()
    picture = object_attention_picture(image, boxes, {'teacher': np.eye(3), 'student': np.eye(3)})
    assert picture.shape == (2 * (BAR + 300), 1000 + 300, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(boxes, BOXES)


@pytest.mark.parametrize('count', [0, 1, 40])
def test_any_number_of_objects_is_drawn(count):
    boxes = np.resize(BOXES, (count, 4))
    picture = panel(np.full((count, count), 1 / max(count, 1)), boxes)
    assert picture.shape == (120, 520, 3)


def test_a_cell_is_bright_in_proportion_to_its_attention():
    attention = np.zeros((3, 10))
    attention[1, 4], attention[2, 9] = 0.5, 0.25
    picture = cell_attention_picture(IMAGE, {'teacher': attention}, (50, 10), 400)
    assert picture.shape == (BAR + 120, 400, 3)
    brightness = picture[BAR:].astype(float).sum(2)
    cells = [brightness[y, x] for y, x in ((60, 180), (100, 380), (100, 20))]
    assert cells[0] > cells[1] > cells[2]
    marked = np.abs(
        picture[BAR:]
        - cell_attention_picture(IMAGE, {'teacher': attention}, (150, 10), 400)[BAR:].astype(int)
    ).sum(2)
    y, x = marked[:, :200].nonzero()
    assert abs(x.mean() - 100) < 2
    assert abs(y.mean() - 20) < 2


def test_no_attention_anywhere_is_a_dark_picture():
    picture = cell_attention_picture(IMAGE, {'absent': np.zeros((3, 10))}, (50, 10), 400)
    assert picture[BAR + 80 :].max() < 60


def test_wrong_sizes_and_no_panels_are_refused():
    with pytest.raises(ValueError, match=r'teacher: attention of shape \(2, 2\); expected one'):
        panel(np.eye(2))
    with pytest.raises(ValueError, match='attentions: empty'):
        object_attention_picture(IMAGE, BOXES, {})
    with pytest.raises(ValueError, match='attentions: empty'):
        cell_attention_picture(IMAGE, {}, (0, 0))
