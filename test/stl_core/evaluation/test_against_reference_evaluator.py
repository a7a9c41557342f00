"""KITTI AP compared with the official program's numbers, plain loops and shapely."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from label_rows import box, crowd, frame

from stl_core.data.sources import kitti
from stl_core.evaluation.average_precision import evaluate_detections
from stl_core.evaluation.overlaps import pairwise_overlaps
from stl_core.geometry import bev_intersection_area

DATA = Path(os.environ.get('MONO3D_DATA', Path(__file__).parents[3].parent / 'shared' / 'data'))
METRIC = {
    'detection': 'bbox',
    'detection_ground': 'bev',
    'detection_3d': '3d',
    'orientation': 'aos',
}


def folder(name):
    """Return a folder of the shared data; skip the test if it does not exist."""
    path = DATA / name
    if not path.is_dir():
        pytest.skip(f'{path} is absent; set MONO3D_DATA to the data folder')
    return path


@pytest.mark.parametrize('detections', ['pointgnn_car', 'synthetic_3class'])
def test_equals_the_official_program(detections):
    """300 frames, all metrics: within 0.001 of what the devkit's C++ program prints."""
    path = folder('extras/eval_val300')
    ids = kitti.read_split(path / 'ids.txt')
    ground_truth = [kitti.read_labels(path / 'label_2' / f'{i}.txt') for i in ids]
    detected = [kitti.read_labels(path / detections / 'data' / f'{i}.txt') for i in ids]
    result = evaluate_detections(ground_truth, detected)
    expected = json.loads((path / 'expected_official_cpp.json').read_text())[detections]
    compared = 0
    for kind in ('AP11', 'AP40'):
        for key, values in expected[kind].items():
            class_name, metric = key.split('_', 1)
            ap = result[class_name.capitalize()].by_difficulty(METRIC[metric], kind, 'strict')
            assert ap == pytest.approx(values, abs=1e-3), f'{kind} {key}'
            compared += 1
    assert compared == (8 if detections == 'pointgnn_car' else 24)


def test_perfect_result_on_the_training_frames():
    """Labels as detections: AP40 reaches the maximum that the number of objects allows."""
    labels = [kitti.read_labels(p) for p in sorted(folder('training/label_2').glob('*.txt'))]
    assert len(labels) == 18
    result = evaluate_detections(labels, labels)
    for metric in ('bbox', 'bev', '3d'):
        for name, expected in (
            ('Car', [25.0, 60.0, 92.5]),
            ('Pedestrian', [25.0, 37.5, 52.5]),
            ('Cyclist', [0.0, 12.5, 12.5]),
        ):
            ap = result[name].by_difficulty(metric, 'AP40', 'strict')
            assert ap == pytest.approx(expected), name


def iou_boxes(a, b, axes):
    """Return the IoU of two boxes given as (low, high) corners, over the first axes."""
    sides = [min(a[1][i], b[1][i]) - max(a[0][i], b[0][i]) for i in range(axes)]
    intersection = np.prod(sides) if min(sides) > 0 else 0.0
    union = sum(np.prod([x[1][i] - x[0][i] for i in range(axes)]) for x in (a, b)) - intersection
    return intersection / union


def corners_of(row, metric):
    """Return the low and high corner of an axis-aligned object."""
    if metric == 'bbox':
        return row['box_px'][:2], row['box_px'][2:]
    center, half = np.array(row['center_m'])[[0, 2, 1]], np.array(row['size_hwl_m'])[::-1] / 2
    return center - half, center + half


def match_frame(labels, detections, role, ignored, min_score, metric, min_iou, by_score):
    """Match one frame as the devkit does; return true scores, similarity, num_true, num_false."""
    unmatched = [
        j
        for j in range(len(detections))
        if ignored[j] >= 0 and detections[j]['score'] >= min_score
    ]
    scores, similarity, false_positives = [], 0.0, []
    axes = {'bbox': 2, 'bev': 2, '3d': 3}[metric]
    for i, row in enumerate(labels):
        if role[i] < 0:
            continue
        candidates = []
        for j in unmatched:
            iou = iou_boxes(corners_of(row, metric), corners_of(detections[j], metric), axes)
            if iou > min_iou:
                preference = (
                    detections[j]['score'] if by_score else (iou if ignored[j] == 0 else -1)
                )
                candidates.append((-preference, j))
        if candidates:
            j = min(candidates)[1]
            unmatched.remove(j)
            if role[i] == 0 and ignored[j] == 0:
                scores.append(detections[j]['score'])
                similarity += (1 + np.cos(row['alpha'] - detections[j]['alpha'])) / 2
    for j in unmatched:
        if ignored[j] == 0:
            box, in_dont_care = corners_of(detections[j], metric), False
            for region in (r for r in labels if r['name'] == 'DontCare'):
                low, high = corners_of(region, metric)
                sides = [min(box[1][i], high[i]) - max(box[0][i], low[i]) for i in range(axes)]
                size = np.prod([box[1][i] - box[0][i] for i in range(axes)])
                in_dont_care |= min(sides) > 0 and np.prod(sides) / size > min_iou
            if not in_dont_care:
                false_positives.append(j)
    return scores, similarity, len(scores), len(false_positives)


def plain_ap(labels_by_frame, detections_by_frame, class_name, limits, metric, min_iou):
    """Compute AP40 of precision and of similarity in plain loops, directly from the rules."""
    min_height, max_occluded, max_truncated = limits
    similar_class = {'Car': 'Van', 'Pedestrian': 'Person_sitting'}.get(class_name)
    frames, num_required = [], 0
    for labels, detections in zip(labels_by_frame, detections_by_frame, strict=True):
        role = []
        for row in labels:
            too_low = row['box_px'][3] - row['box_px'][1] < min_height
            too_hard = (
                row['occluded'] > max_occluded or row['truncated'] > max_truncated or too_low
            )
            in_class = row['name'] == class_name
            role.append(int(too_hard) if in_class else 1 if row['name'] == similar_class else -1)
        num_required += role.count(0)
        ignored = [
            1 if r['box_px'][3] - r['box_px'][1] < min_height else -(r['name'] != class_name)
            for r in detections
        ]
        frames.append((labels, detections, role, ignored))
    scores = sorted(
        (s for c in frames for s in match_frame(*c, -np.inf, metric, min_iou, True)[0]),
        reverse=True,
    )
    thresholds, recall = [], 0.0
    for i, score in enumerate(scores):
        last = i == len(scores) - 1
        left, right = (i + 1) / num_required, (i + 1 if last else i + 2) / num_required
        if last or right - recall >= recall - left:
            thresholds.append(score)
            recall += 1 / 40
    curve, oriented = np.zeros(41), np.zeros(41)
    for t, threshold in enumerate(thresholds):
        matches = [match_frame(*c, threshold, metric, min_iou, False) for c in frames]
        true, false = sum(p[2] for p in matches), sum(p[3] for p in matches)
        curve[t] = true / max(true + false, 1)
        oriented[t] = sum(p[1] for p in matches) / max(true + false, 1)
    return tuple(2.5 * sum(max(c[i:]) for i in range(1, 41)) for c in (curve, oriented))


def test_equals_plain_loops_in_crowds():
    """Where the order of matching matters, the result equals that of a loop over objects."""
    limits = ((40, 0, 0.15), (25, 1, 0.30), (25, 2, 0.50))
    labels_by_frame, detections_by_frame = crowd(np.random.default_rng(3), 40)
    result = evaluate_detections(
        [frame(*t) for t in labels_by_frame], [frame(*f) for f in detections_by_frame]
    )
    for class_name, min_iou in (('Car', 0.7), ('Pedestrian', 0.5), ('Cyclist', 0.5)):
        for metric in ('bbox', 'bev', '3d'):
            expected = [
                plain_ap(labels_by_frame, detections_by_frame, class_name, limit, metric, min_iou)
                for limit in limits
            ]
            ap = result[class_name].by_difficulty(metric, 'AP40', 'strict')
            assert ap == pytest.approx([e[0] for e in expected]), f'{class_name} {metric}'
            assert max(ap) > 0
            if metric == 'bbox':
                ap = result[class_name].by_difficulty('aos', 'AP40', 'strict')
                assert ap == pytest.approx([e[1] for e in expected]), f'{class_name} aos'


def rectangle_pairs():
    """
    Return 10,000 pairs of x, z, width, length, rotation_y.

    By thousands: identical, contained, end to end, zero-size and far, at right angles or parallel
    to the axes; the other half is random.
    """
    rng = np.random.default_rng(0)
    count = 10_000
    a, b = (
        np.column_stack(
            [
                rng.uniform(-3, 3, (count, 2)),
                rng.uniform(0.3, 2.5, count),
                rng.uniform(0.3, 6, count),
                rng.uniform(-7, 7, count),
            ]
        )
        for _ in range(2)
    )
    b[:1000] = a[:1000]  # identical
    b[1000:2000] = a[1000:2000] * [1, 1, 0.3, 0.5, 1]  # contained
    b[2000:3000] = a[2000:3000]  # end to end: shifted by their length along it
    heading = np.stack([np.cos(a[:, 4]), -np.sin(a[:, 4])], 1)
    b[2000:3000, :2] += (heading * a[:, 3:4])[2000:3000]
    b[3000:3500, 2] = 0  # a line
    b[3500:3700, 2:4] = 0  # a point
    b[3700:4000, :2] += 100  # far
    b[4000:4500] = a[4000:4500] + np.array([0.5, 0, 0, 0, np.pi / 2])  # at right angles
    a[4500:5000, 4] = b[4500:5000, 4] = 0  # parallel to the axes
    return a, b


def shared_area(a, b):
    """Intersect rectangles x, z, width, length, rotation_y with shapely."""
    shapely = pytest.importorskip('shapely')

    def polygons(rows):
        x, z, width, length, ry = rows.T
        along = np.stack([np.cos(ry), -np.sin(ry)], 1) * length[:, None] / 2
        across = np.stack([np.sin(ry), np.cos(ry)], 1) * width[:, None] / 2
        center = np.stack([x, z], 1)
        ring = [along + across, along - across, -along - across, across - along]
        return shapely.polygons(np.stack([center + c for c in ring], 1))

    # On a grid: without one, GEOS 3.14 treats a few touching rectangles as identical.
    return shapely.area(shapely.intersection(polygons(a), polygons(b), grid_size=1e-10))


def test_rotated_overlap_equals_shapely():
    """10,000 pairs: random, contained, identical, touching, zero-size and far ones."""
    a, b = rectangle_pairs()
    expected, area = shared_area(a, b), bev_intersection_area(a, b)
    assert np.abs(area - expected).max() < 2e-9
    assert area[:1000] == pytest.approx(a[:1000, 2] * a[:1000, 3])
    assert area[1000:2000] == pytest.approx(b[1000:2000, 2] * b[1000:2000, 3])
    assert area[2000:3000].max() < 1e-12
    assert area[3000:4000].max() < 1e-12
    assert (expected[5000:] > 0.1).sum() > 500


def test_bev_and_3d_iou_equal_shapely():
    """The same pairs with heights: identical, on top of each other, flat, far, random."""
    a, b = rectangle_pairs()
    rng = np.random.default_rng(1)
    y_a, y_b = rng.uniform(-1, 1, (2, len(a)))
    h_a, h_b = rng.uniform(0.5, 3, (2, len(a)))
    kind = np.arange(len(a)) % 10
    y_b, h_b = np.where(kind < 2, y_a, y_b), np.where(kind < 2, h_a, h_b)  # the same
    y_b = np.where(kind == 2, y_a + (h_a + h_b) / 2, y_b)  # touching
    h_b = np.where(kind == 3, 0, h_b)  # flat
    y_b = np.where(kind == 4, y_a + 50, y_b)  # far
    y_b, h_b = np.where(kind == 5, y_a, y_b), np.where(kind == 5, h_a / 2, h_b)  # contained

    def one_per_frame(rows, y, h):
        return [
            frame(box(center_m=[x, center_y, z], size_hwl_m=[height, w, long], rotation_y=ry))
            for (x, z, w, long, ry), center_y, height in zip(rows, y, h, strict=True)
        ]

    frames = pairwise_overlaps(one_per_frame(a, y_a, h_a), one_per_frame(b, y_b, h_b))
    ious = {metric: np.zeros(len(a)) for metric in ('bev', '3d')}
    for metric, values in ious.items():
        label_rows, detection_rows, iou = frames.overlaps[metric]
        assert (label_rows == detection_rows).all()
        values[label_rows] = iou
    area = shared_area(a, b)
    volume = area * np.clip(
        np.minimum(y_a + h_a / 2, y_b + h_b / 2) - np.maximum(y_a - h_a / 2, y_b - h_b / 2),
        0,
        None,
    )
    ground_a, ground_b = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    assert np.abs(ious['bev'] - area / (ground_a + ground_b - area)).max() < 1e-8
    assert np.abs(ious['3d'] - volume / (ground_a * h_a + ground_b * h_b - volume)).max() < 1e-8
    assert ious['bev'][:1000] == pytest.approx(1)
    assert ious['3d'][:1000][kind[:1000] < 2] == pytest.approx(1)
    assert ious['3d'][1000:2000][kind[1000:2000] == 5] == pytest.approx(0.075)  # 0.3 x 0.5 x 0.5
    assert not ious['3d'][kind == 4].any()
    assert ious['3d'][(kind == 2) | (kind == 3)].max() < 1e-12
    assert (ious['3d'][5000:] > 0.1).sum() > 100
