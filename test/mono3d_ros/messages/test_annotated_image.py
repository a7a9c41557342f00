"""Annotated image: the boxes of draw.py on the image, as a JPEG."""

from array import array
from dataclasses import replace

import cv2
import numpy as np
from frame_results import STAMP_NS, objects, plain_new, result

from mono3d_ros.messages import annotated_image
from stl_core.geometry import project_points
from stl_core.visualization import draw
from stl_core.visualization.style import class_colour

P = np.array([[300.0, 0, 160, 0], [0, 300, 60, 0], [0, 0, 1, 0]])


def grey():
    return np.full((120, 320, 3), 128, np.uint8)


def decoded(message):
    bgr = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def test_it_equals_the_drawn_boxes_up_to_jpeg_loss():
    frame_result, image = result(3), grey()
    message = annotated_image.to_annotated_image(image, frame_result, P, plain_new)
    assert (message.format, message.header.frame_id) == ('jpeg', 'front_optical')
    assert message.header.stamp.nanosec == STAMP_NS % 10**9
    assert (image == 128).all()
    found, classes = frame_result.objects, frame_result.classes
    colours = [class_colour(classes[i]) for i in found.class_id]
    labels = draw.box_labels(found, classes)
    expected = draw.draw_edges(image, draw.box_edges(found), P, colours, labels)
    drawn = decoded(message)
    assert drawn.shape == expected.shape
    assert np.abs(drawn.astype(int) - expected).mean() < 4
    # the box, not only the label: colour where the object is
    (u, v), _ = project_points(objects(1).center_m[0], P)
    spread = drawn[int(v) - 12 : int(v) + 12, int(u) - 30 : int(u) + 30].astype(int)
    assert (spread.max(2) - spread.min(2)).max() > 60


def test_without_objects_it_equals_the_image():
    message = annotated_image.to_annotated_image(grey(), result(0), P, plain_new)
    assert np.abs(decoded(message).astype(int) - 128).max() <= 2


def test_data_is_an_array_that_rclpy_accepts_without_conversion():
    data = annotated_image.to_annotated_image(grey(), result(1), P, plain_new).data
    assert (type(data), data.typecode) == (array, 'B')


def test_labels_of_tracks_contain_their_id():
    plain = annotated_image.to_annotated_image(grey(), result(1), P, plain_new)
    tracked = replace(result(1), velocity_m_s=np.zeros((1, 3)))
    with_id = annotated_image.to_annotated_image(grey(), tracked, P, plain_new)
    assert np.abs(decoded(plain).astype(int) - decoded(with_id)).max() > 60
