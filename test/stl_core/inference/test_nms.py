"""Bird's-eye-view NMS."""

import numpy as np
import pytest
from shapely.affinity import rotate, translate
from shapely.geometry import box

from stl_core.inference.nms import bev_nms
from stl_core.types import Objects3D


def objects(rows):
    """Build objects from rows of class, score, x, z, width, length, rotation_y (m, rad)."""
    class_id, score, x, z, width, length, yaw = np.array(rows, float).reshape(-1, 7).T
    count = len(class_id)
    return Objects3D(
        class_id=class_id.astype(int),
        score=score,
        center_m=np.stack([x, np.ones(count), z], 1),
        size_hwl_m=np.stack([np.full(count, 1.5), width, length], 1),
        rotation_y=yaw,
        box_px=np.zeros((count, 4)),
        depth_sigma_m=np.zeros(count),
    )


def test_the_higher_scoring_of_overlapping_boxes_stays_and_the_order_is_kept():
    detections = objects(
        [
            (0, 0.3, 0, 10, 1.6, 4, 0.0),
            (0, 0.9, 0.2, 10.3, 1.6, 4, 0.1),
            (0, 0.5, 6, 10, 1.6, 4, 0.0),
        ]
    )
    assert bev_nms(detections, 0.05).score.tolist() == [0.9, 0.5]


def test_other_classes_and_neighbours_stay():
    parked = objects(
        [
            (0, 0.9, 0, 10, 1.6, 4, 1.57),
            (0, 0.8, 1.8, 10, 1.6, 4, 1.57),
            (1, 0.7, 0, 10, 0.6, 0.8, 0.0),
        ]
    )
    assert len(bev_nms(parked, 0.05)) == 3


def test_a_suppressed_box_suppresses_no_other_box():
    chain = objects([(0, s, x, 10, 2, 4, 0.0) for s, x in ((0.9, 0), (0.8, 3), (0.7, 6))])
    assert bev_nms(chain, 0.05).score.tolist() == [0.9, 0.7]


@pytest.mark.parametrize('count', [0, 1])
def test_no_object_and_one_object(count):
    assert len(bev_nms(objects([(0, 0.5, 0, 10, 1.6, 4, 0.0)] * count), 0.05)) == count


def test_random_crowds_equal_greedy_nms_with_shapely_polygons():
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.uniform((0, 0, -9, 5, 0.5, 1, -3), (2, 1, 9, 25, 2, 5, 3), (30, 7))
        rows[:, 0] = np.floor(rows[:, 0])
        shapes = [
            translate(
                rotate(box(-r[5] / 2, -r[4] / 2, r[5] / 2, r[4] / 2), -r[6], (0, 0), True),
                r[2],
                r[3],
            )
            for r in rows
        ]
        kept = []
        for i in np.argsort(-rows[:, 1]):
            same_class = [j for j in kept if rows[j, 0] == rows[i, 0]]
            iou = [
                shapes[i].intersection(shapes[j]).area / shapes[i].union(shapes[j]).area
                for j in same_class
            ]
            if all(each <= 0.1 for each in iou):
                kept.append(i)
        expected = rows[np.sort(kept), 1]
        np.testing.assert_allclose(bev_nms(objects(rows), 0.1).score, expected)
