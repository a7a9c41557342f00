"""Result of nuScenes' benchmark as the devkit computes it, and the notes that belong to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: The devkit's name of a true-positive error -> its name in papers.
TP_ERRORS = {
    'trans_err': 'mATE',
    'scale_err': 'mASE',
    'orient_err': 'mAOE',
    'vel_err': 'mAVE',
    'attr_err': 'mAAE',
}


@dataclass(frozen=True)
class ClassResult:
    """
    Figures of one class.

    :param ap_by_distance: matching distance in metres, such as '0.5' -> AP, 0 to 1.
    :param tp_errors: keys of TP_ERRORS -> error; nan where the benchmark has none.
    :param ground_truth: labelled objects after the devkit's filters.
    :param detections: detections after the devkit's filters.
    """

    ap_by_distance: Mapping[str, float]
    tp_errors: Mapping[str, float]
    ground_truth: int
    detections: int

    @property
    def ap(self) -> float:
        """Mean AP over the matching distances."""
        return float(np.mean(list(self.ap_by_distance.values())))


@dataclass(frozen=True)
class NuscenesResult:
    """
    Figures of the devkit for one split.

    :param mean_ap: mAP, 0 to 1, over all ten classes.
    :param nds: nuScenes detection score, 0 to 1.
    :param tp_errors: keys of TP_ERRORS -> mean error over classes.
    :param by_class: figures of each class.
    :param samples: number of samples.
    :param height_error_m: median of detected less true z; nan without a match.
    :param notes: what the figures hide: absent classes, suspicious conventions, filled-in values.
    """

    mean_ap: float
    nds: float
    tp_errors: Mapping[str, float]
    by_class: Mapping[str, ClassResult]
    samples: int
    height_error_m: float
    notes: Sequence[str] = ()

    @property
    def present(self) -> tuple[str, ...]:
        """Classes with labelled objects."""
        return tuple(name for name, each in self.by_class.items() if each.ground_truth)

    @property
    def present_mean_ap(self) -> float:
        """MAP over the present classes; 0 without any."""
        return float(np.mean([self.by_class[name].ap for name in self.present] or [0.0]))

    def columns(self) -> dict[str, float]:
        """Return the numbers of val.csv and of a study's table."""
        return {
            'NDS': self.nds,
            'mAP': self.mean_ap,
            'mAP present': self.present_mean_ap,
            **{TP_ERRORS[name]: value for name, value in self.tp_errors.items()},
            'median z error': self.height_error_m,
            **{f'AP/{name}': self.by_class[name].ap for name in self.present},
        }

    def rows(self) -> list[dict[str, str | float]]:
        """Return a row for each class and one of the means."""
        rows: list[dict[str, str | float]] = [
            {
                'class': name,
                'AP': each.ap,
                **{f'AP {d} m': value for d, value in each.ap_by_distance.items()},
                **{TP_ERRORS[key][1:]: value for key, value in each.tp_errors.items()},
                'labels': each.ground_truth,
                'detections': each.detections,
            }
            for name, each in self.by_class.items()
        ]
        distances = next(iter(self.by_class.values())).ap_by_distance
        mean: dict[str, str | float] = {
            'class': 'mean of all',
            'AP': self.mean_ap,
            **{
                f'AP {d} m': float(
                    np.mean([each.ap_by_distance[d] for each in self.by_class.values()])
                )
                for d in distances
            },
            **{TP_ERRORS[key][1:]: value for key, value in self.tp_errors.items()},
            'labels': sum(each.ground_truth for each in self.by_class.values()),
            'detections': sum(each.detections for each in self.by_class.values()),
        }
        return [*rows, mean]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; nan becomes None."""
        return {
            'mAP': self.mean_ap,
            'NDS': self.nds,
            'mAP_present': self.present_mean_ap,
            'tp_errors': _without_nan(self.tp_errors),
            'by_class': {
                name: {
                    'ap_by_distance': dict(each.ap_by_distance),
                    'tp_errors': _without_nan(each.tp_errors),
                    'ground_truth': each.ground_truth,
                    'detections': each.detections,
                }
                for name, each in self.by_class.items()
            },
            'samples': self.samples,
            'median_z_error_m': None if math.isnan(self.height_error_m) else self.height_error_m,
            'notes': list(self.notes),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> NuscenesResult:
        """Read to_json's structure."""
        height = data['median_z_error_m']
        return NuscenesResult(
            mean_ap=data['mAP'],
            nds=data['NDS'],
            tp_errors=_with_nan(data['tp_errors']),
            by_class={
                name: ClassResult(
                    each['ap_by_distance'],
                    _with_nan(each['tp_errors']),
                    each['ground_truth'],
                    each['detections'],
                )
                for name, each in data['by_class'].items()
            },
            samples=data['samples'],
            height_error_m=math.nan if height is None else height,
            notes=tuple(data['notes']),
        )

    def format_table(self) -> str:
        """Format as text: a line a class, the means, and the score."""
        rows = self.rows()
        heads = list(rows[0])
        lines = ['  '.join(f'{head:>{20 if head == "class" else 10}}' for head in heads)]
        for row in rows:
            cells = [
                f'{row[head]:>20}'
                if head == 'class'
                else f'{row[head]:>10}'
                if isinstance(row[head], int)
                else f'{row[head]:>10.4f}'
                for head in heads
            ]
            lines.append('  '.join(cells))
        errors = ', '.join(
            f'{TP_ERRORS[key]} {value:.4f}' for key, value in self.tp_errors.items()
        )
        lines += [
            f'mAP {self.mean_ap:.5f}, NDS {self.nds:.5f}; {errors}',
            f'mAP of the {len(self.present)} present classes {self.present_mean_ap:.5f};'
            f' median error of z {self.height_error_m:.2f} m; {self.samples} samples',
        ]
        return '\n'.join([*lines, *(f'note: {note}' for note in self.notes)])


def _without_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else value for key, value in values.items()}


def _with_nan(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: math.nan if value is None else value for key, value in values.items()}
