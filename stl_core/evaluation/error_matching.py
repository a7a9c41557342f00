"""
Match detections to labels by 2D IoU only, so that 3D errors can be measured.

The benchmark's matching (kitti_matching.py) requires overlap in 3D, which hides the errors that
oracle.py and reliability.py measure.
"""

from __future__ import annotations

import numpy as np

from stl_core.evaluation.overlaps import box_iou
from stl_core.types import Array, Labels

#: Minimum IoU of the 2D boxes of a match.
MIN_BOX_IOU = 0.5

#: The rule of match_by_box_iou in one sentence, for readers of a report.
MATCHING_RULE = (
    'detections, best score first, take the label of their class, not yet taken, with the greatest'
    f' IoU of the 2D boxes, at least {MIN_BOX_IOU}; labels of every difficulty count'
)


def match_by_box_iou(ground_truth: Labels, detections: Labels) -> tuple[Array, Array]:
    """
    Match the detections of one frame with its labels.

    Detections, by falling score, take the label of their class, not yet taken, with the greatest
    IoU of the 2D boxes, at least MIN_BOX_IOU. DontCare areas and objects behind the camera
    (z <= 0, without a position in the image) match nothing.

    :param ground_truth: the labels of a frame.
    :param detections: its detections.
    :return: (M,) rows of ground_truth and (M,) rows of detections, by falling score.
    """
    label_name, detection_name = np.char.lower(ground_truth.name), np.char.lower(detections.name)
    allowed = (label_name[:, None] == detection_name) & (label_name != 'dontcare')[:, None]
    allowed &= (ground_truth.center_m[:, 2] > 0)[:, None] & (detections.center_m[:, 2] > 0)
    a, b = np.nonzero(allowed)
    iou = box_iou(ground_truth.box_px[a], detections.box_px[b])
    order = np.lexsort((-iou, b, -detections.score[b]))
    rows: dict[int, int] = {}
    taken: set[int] = set()
    for pair in order[iou[order] >= MIN_BOX_IOU]:
        label, detection = int(a[pair]), int(b[pair])
        if detection not in rows and label not in taken:
            rows[detection] = label
            taken.add(label)
    return np.array(list(rows.values()), np.int64), np.array(list(rows), np.int64)
