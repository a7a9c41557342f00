"""
Match detections to labels by 2D IoU only, so that 3D errors can be measured.

The project has two matching rules: the benchmark's for AP (kitti_matching.py), which requires
overlap in 3D and so hides 3D errors, and ERROR_MATCHING for every error analysis: oracle.py,
reliability.py, and the depth errors of evaluate_bag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stl_core.evaluation.overlaps import box_iou
from stl_core.types import Array, Labels


@dataclass(frozen=True)
class MatchingRule:
    """
    Rule that assigns detections to labels, see match_by_box_iou.

    :param name: matching mode, named as in Autoware's perception_evaluation: 'IOU2D'.
    :param min_iou: minimum IoU of the 2D boxes of a match.
    """

    name: str
    min_iou: float

    def __str__(self) -> str:
        """Return name and threshold, such as 'IOU2D >= 0.5'."""
        return f'{self.name} >= {self.min_iou:g}'

    @property
    def description(self) -> str:
        """Return the rule in one sentence, for readers of a report."""
        return (
            f'{self}: detections, best score first, take the label of their class, not yet taken,'
            f' with the greatest IoU of the 2D boxes, at least {self.min_iou:g}; labels of every'
            ' difficulty count'
        )


#: The rule of every error analysis.
ERROR_MATCHING = MatchingRule('IOU2D', 0.5)


def match_by_box_iou(
    ground_truth: Labels, detections: Labels, rule: MatchingRule = ERROR_MATCHING
) -> tuple[Array, Array]:
    """
    Match the detections of one frame with its labels.

    Detections, by falling score, take the label of their class, not yet taken, with the greatest
    IoU of the 2D boxes, at least rule.min_iou. DontCare areas and objects behind the camera
    (z <= 0, without a position in the image) match nothing.

    :param ground_truth: the labels of a frame.
    :param detections: its detections.
    :param rule: the threshold.
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
    for pair in order[iou[order] >= rule.min_iou]:
        label, detection = int(a[pair]), int(b[pair])
        if detection not in rows and label not in taken:
            rows[detection] = label
            taken.add(label)
    return np.array(list(rows.values()), np.int64), np.array(list(rows), np.int64)
