from dataclasses import replace

import numpy as np
import pytest
from kitti_scenes import P2, make_scenes
from street_labels import farther, scored, street

from mono3d_ros.bag_evaluation import label_score
from mono3d_ros.bags.recorded_boxes import RecordedBoxes, boxes_to_labels
from mono3d_ros.camera_frame import Frame
from stl_core.data.sources import kitti
from stl_core.evaluation import report
from stl_core.geometry import wrap_angle
from stl_core.types import Objects3D
from stl_core.visualization import draw


def published(objects):
    """Return the boxes as recorded from the markers of the objects."""
    return RecordedBoxes(draw.box_edges(objects), tuple(draw.box_labels(objects, kitti.CLASSES)))


def frame():
    return Frame('camera', np.zeros((96, 320, 3), np.uint8), P2, 0, 'c')


def test_boxes_are_recovered_from_their_lines():
    rng = np.random.default_rng(0)
    count = 40
    objects = Objects3D(
        class_id=rng.integers(0, 3, count),
        score=rng.uniform(0.1, 1, count).round(2),
        center_m=rng.uniform([-9, -1, 4], [9, 2, 60], (count, 3)),
        size_hwl_m=rng.uniform(0.3, 9, (count, 3)),
        rotation_y=rng.uniform(-np.pi, np.pi, count),
        box_px=np.zeros((count, 4)),
        depth_sigma_m=np.ones(count),
    )
    labels = boxes_to_labels(published(objects), frame())
    assert list(labels.name) == [kitti.CLASSES[i] for i in objects.class_id]
    np.testing.assert_allclose(labels.score, objects.score)
    np.testing.assert_allclose(labels.center_m, objects.center_m, atol=1e-9)
    np.testing.assert_allclose(labels.size_hwl_m, objects.size_hwl_m, atol=1e-9)
    assert np.abs(wrap_angle(labels.rotation_y - objects.rotation_y)).max() < 1e-9


def test_published_truth_scores_fully_and_a_depth_shift_is_measured(tmp_path):
    root = make_scenes(tmp_path / 'kitti', frames=60)
    truth = [kitti.read_labels(path) for path in sorted((root / 'label_2').iterdir())]
    objects = [each.to_objects(kitti.CLASSES) for each in truth]
    exact = [boxes_to_labels(published(each), frame()) for each in objects]
    perfect = label_score.score_boxes(truth, exact)
    # 2D boxes are clipped at the image border, so that only the 3D score is perfect
    assert perfect.ap['Car'].value('3d', 'AP40', 'strict', 'moderate') > 95
    assert max(perfect.depth_error_m['Car']) < 1e-6
    assert perfect.table_rows()[0][0] == 'Car'
    moved = [Objects3D(**{**vars(each), 'center_m': each.center_m * 1.03}) for each in objects]
    shifted = label_score.score_boxes(
        truth, [boxes_to_labels(published(each), frame()) for each in moved]
    )
    z = np.concatenate([each.center_m[:, 2] for each in objects])
    assert np.median(shifted.depth_error_m['Car']) == pytest.approx(np.median(z) * 0.03, rel=0.1)


def shifted_right(labels, widths):
    """Move 2D boxes to the right by a multiple of their widths."""
    shift_px = widths * (labels.box_px[:, 2] - labels.box_px[:, 0])
    return replace(labels, box_px=labels.box_px + np.outer(shift_px, [1, 0, 1, 0]))


def test_table_and_error_analysis_match_the_same_boxes():
    """A box beside its label in the image, within half a width, matches in neither of them."""
    rng = np.random.default_rng(0)
    truth = street(rng, 8)
    detections = [farther(each, 1.1) for each in scored(rng, truth)]
    beside = [shifted_right(each, 0.45) for each in detections[:4]]
    detections = [*beside, *detections[4:]]
    analysis = report.analyse_detections(truth, detections)
    errors = label_score.depth_errors(truth, detections)['Car']
    overall = analysis.depth_errors['Car'][-1]
    assert len(errors) == overall.count == sum(map(len, truth[4:]))
    assert np.median(errors) == overall.median_abs_m


def test_no_detections_and_no_labels_score_zero():
    empty = boxes_to_labels(RecordedBoxes(np.zeros((0, 24, 3)), ()), frame())
    assert len(empty) == 0
    result = label_score.score_boxes([empty], [empty])
    assert result.table_rows()[0] == ('Car', '0.0/0.0/0.0', '0.0/0.0/0.0', '0', '-')
