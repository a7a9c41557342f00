"""
KITTI AP as a typed result, by class, kind of overlap, recall points, minimum IoU and difficulty.

CLASSES, KINDS, RECALLS, MIN_IOU (its keys are the criteria 'strict' and 'loose') and
DIFFICULTY_NAMES define these names. average_precision.py defines and computes the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stl_core.evaluation.kitti_matching import DIFFICULTIES

CLASSES = ('Car', 'Pedestrian', 'Cyclist')
KINDS = ('bbox', 'bev', '3d', 'aos')
#: Of the 41 recalls 0, 1/40, ..., 1, those over which a kind of AP averages.
RECALLS = {'AP40': slice(1, None), 'AP11': slice(0, None, 4)}
POINTS = tuple(RECALLS)
DIFFICULTY_NAMES = tuple(DIFFICULTIES)

#: The IoU that a match must exceed, for each of CLASSES; 'aos' uses that of 'bbox'.
MIN_IOU = {
    'strict': {'bbox': (0.7, 0.5, 0.5), 'bev': (0.7, 0.5, 0.5), '3d': (0.7, 0.5, 0.5)},
    'loose': {'bbox': (0.7, 0.5, 0.5), 'bev': (0.5, 0.25, 0.25), '3d': (0.5, 0.25, 0.25)},
}

#: {class: {kind: {points: {criterion: [easy, moderate, hard]}}}}, percent.
ApJson = dict[str, dict[str, dict[str, dict[str, list[float]]]]]


@dataclass(frozen=True)
class ClassAp:
    """
    AP of one class.

    :param values: (kind, points, criterion) -> percent at each of DIFFICULTY_NAMES.
    """

    values: Mapping[tuple[str, str, str], tuple[float, ...]]

    def by_difficulty(self, kind: str, points: str, criterion: str) -> tuple[float, ...]:
        """Return the AP at easy, moderate and hard, percent."""
        return self.values[kind, points, criterion]

    def value(self, kind: str, points: str, criterion: str, difficulty: str) -> float:
        """Return one AP, percent; see KINDS, POINTS, MIN_IOU and DIFFICULTY_NAMES."""
        return self.values[kind, points, criterion][DIFFICULTY_NAMES.index(difficulty)]


@dataclass(frozen=True)
class ApResult:
    """
    AP of several classes: the result of the metric 'kitti', see metric.MetricResult.

    :param by_class: class name -> its AP.
    """

    by_class: Mapping[str, ClassAp]

    def __getitem__(self, class_name: str) -> ClassAp:
        """Return the AP of a class; KeyError for an unknown one."""
        return self.by_class[class_name]

    def to_json(self) -> ApJson:
        """Return the structure of metrics.json, see ApJson."""
        return {
            name: {
                kind: {
                    points: {
                        criterion: list(each.values[kind, points, criterion])
                        for criterion in MIN_IOU
                    }
                    for points in POINTS
                }
                for kind in KINDS
            }
            for name, each in self.by_class.items()
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ApResult:
        """Read to_json's structure; entries that are not the AP of one of CLASSES are ignored."""
        return ApResult(
            {
                name: ClassAp(
                    {
                        (kind, points, criterion): tuple(values)
                        for kind, by_points in data[name].items()
                        for points, by_criterion in by_points.items()
                        for criterion, values in by_criterion.items()
                    }
                )
                for name in CLASSES
                if name in data
            }
        )

    def rows(self) -> list[dict[str, str | float]]:
        """Return a row for each class, kind, points and criterion, as in the report's tables."""
        return [
            {'class': name, 'metric': kind, 'kind': points, 'criterion': criterion}
            | dict(zip(DIFFICULTY_NAMES, values, strict=True))
            for name, kinds in self.to_json().items()
            for kind, by_points in kinds.items()
            for points, by_criterion in by_points.items()
            for criterion, values in by_criterion.items()
        ]

    def columns(self) -> dict[str, float]:
        """Return the columns of val.csv: the moderate AP40 of every class and kind, strict IoU."""
        return {
            f'{name}/{kind}': each.value(kind, 'AP40', 'strict', 'moderate')
            for name, each in self.by_class.items()
            for kind in KINDS
        }

    def class_columns(self, class_name: str) -> dict[str, float]:
        """Return the columns of a study's table: the AP40 of one class in 3D and BEV."""
        return {
            f'{kind}/{criterion}/{difficulty}': self[class_name].value(
                kind, 'AP40', criterion, difficulty
            )
            for kind in ('3d', 'bev')
            for criterion in MIN_IOU
            for difficulty in DIFFICULTY_NAMES
        }

    def format_table(self, points: Sequence[str] = POINTS) -> str:
        """
        Format as text, one line for each class, kind, points and minimum IoU, under a heading.

        :param points: those of POINTS to list.
        """
        lines = ['class       metric  AP    IoU             easy  moderate    hard']
        for row in self.rows():
            if row['kind'] in points:
                name, kind, criterion = (str(row[key]) for key in ('class', 'metric', 'criterion'))
                iou = class_min_iou(name, kind, criterion)
                lines.append(
                    f'{name:<12}{kind:<8}{row["kind"]:<6}{iou:<5.2f}'
                    f'{criterion:<7}{row["easy"]:8.2f}{row["moderate"]:10.2f}{row["hard"]:8.2f}'
                )
        return '\n'.join(lines)


def class_min_iou(class_name: str, kind: str, criterion: str) -> float:
    """Return the IoU that a match must exceed, see MIN_IOU."""
    by_class = MIN_IOU[criterion]['bbox' if kind == 'aos' else kind]
    return by_class[CLASSES.index(class_name)]
