"""
Counts of what an evaluation reads: frames, labels and detections by class, and what it scores.

A table of zeros looks the same for a model that finds nothing and for labels of which none can be
found, so every evaluation gives these counts, and notes on what they mean for the AP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stl_core.evaluation.ap_result import CLASSES, DIFFICULTY_NAMES
from stl_core.evaluation.kitti_matching import (
    DIFFICULTIES,
    HARD,
    SIMILAR_CLASSES,
    meets_difficulty,
)
from stl_core.types import Array, Labels

#: Marks regions of the image instead of objects.
_DONT_CARE = 'dontcare'


@dataclass(frozen=True)
class ClassCount:
    """
    Labels and detections of one class.

    :param labels: labelled objects.
    :param valid: those that must be found, for each of DIFFICULTY_NAMES; 0 for classes that are
        not scored. All others are ignored.
    :param reasons: reason -> labels that it excludes at 'hard', the widest difficulty; one label
        may have several.
    :param detections: detected objects.
    """

    labels: int
    valid: tuple[int, ...]
    reasons: Mapping[str, int]
    detections: int


@dataclass(frozen=True)
class EvaluationCounts:
    """
    What an evaluation read.

    :param frames: evaluated frames.
    :param without_result_file: those of them without a result file, counted as empty.
    :param by_class: class name -> its counts: CLASSES, then all others by name.
    :param model_classes: classes of the detector; None if they are unknown.
    :param not_finite: detections that were dropped because a number of theirs was not finite.
    """

    frames: int
    by_class: Mapping[str, ClassCount]
    model_classes: tuple[str, ...] | None = None
    without_result_file: int = 0
    not_finite: int = 0

    def rows(self) -> list[dict[str, str | float]]:
        """Return a row per class, for format_rows; '-' for classes that are not scored."""
        rows: list[dict[str, str | float]] = []
        for name, each in self.by_class.items():
            row: dict[str, str | float] = {'class': name, 'labels': each.labels}
            for level, count in zip(DIFFICULTY_NAMES, each.valid, strict=True):
                row[f'counted {level}'] = count if name in CLASSES else '-'
            rows.append({**row, 'detections': each.detections})
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the entry `counts` of JSON files."""
        return {
            'frames': self.frames,
            'frames_without_result_file': self.without_result_file,
            'labels': {
                name: {
                    'total': each.labels,
                    'scored': name in CLASSES,
                    'valid': dict(zip(DIFFICULTY_NAMES, each.valid, strict=True)),
                    'ignored': {
                        level: each.labels - count
                        for level, count in zip(DIFFICULTY_NAMES, each.valid, strict=True)
                    },
                    'ignored_at_hard_for': dict(each.reasons),
                }
                for name, each in self.by_class.items()
            },
            'detections': {name: each.detections for name, each in self.by_class.items()},
            'detections_not_finite': self.not_finite,
            'model_classes': None if self.model_classes is None else list(self.model_classes),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> EvaluationCounts:
        """Read to_json's data."""
        by_class = {
            name: ClassCount(
                each['total'],
                tuple(each['valid'][level] for level in DIFFICULTY_NAMES),
                each['ignored_at_hard_for'],
                data['detections'][name],
            )
            for name, each in data['labels'].items()
        }
        known = data['model_classes']
        return EvaluationCounts(
            data['frames'],
            by_class,
            None if known is None else tuple(known),
            data['frames_without_result_file'],
            data['detections_not_finite'],
        )

    def notes(self) -> list[str]:
        """Return a sentence for everything that is not scored, or scored with 0 for a reason."""
        notes = []
        if self.without_result_file:
            notes.append(
                f'{self.without_result_file} of {self.frames} frames have no result file and count'
                ' as frames without detections'
            )
        if self.not_finite:
            notes.append(
                f'{self.not_finite} detections were dropped: the outputs of the network are not'
                ' finite'
            )
        for name in CLASSES:
            notes += self._class_notes(name)
        return notes + self._notes_on_other_classes()

    def fault(self) -> str:
        """Return why the AP would be meaningless; '' if at least one label can be found."""
        counted = [name for name in CLASSES if self.by_class[name].valid[-1]]
        if not counted:
            objects = sum(each.labels for each in self.by_class.values())
            found = ', '.join(f'{n} {x.labels}' for n, x in self.by_class.items() if x.labels)
            return (
                f'none of {objects} labels in {self.frames} frames is counted, so that every AP'
                f' would be 0 ({found or "all label files are empty"}'
                f'{self._reasons_text()}); scored are {", ".join(CLASSES)}'
            )
        detected = [name for name, each in self.by_class.items() if each.detections]
        known = self.model_classes or detected
        if known and not set(known) & set(counted):
            origin = 'the detections have' if self.model_classes is None else 'the model has'
            return (
                f'no class in common: labels of {", ".join(counted)} are counted, but {origin}'
                f' {", ".join(known)}'
            )
        if self.not_finite and not any(each.detections for each in self.by_class.values()):
            return (
                f'no detection is left: {self.not_finite} objects of the network are not finite;'
                ' expected a model whose outputs are finite'
            )
        return ''

    def _class_notes(self, name: str) -> list[str]:
        """Return the notes on a scored class whose AP is 0 for a reason."""
        each, notes = self.by_class[name], []
        if not each.labels:
            notes.append(f'{name}: no labels, so that its AP of 0 means nothing')
        elif not each.valid[-1]:
            notes.append(
                f'{name}: none of {each.labels} labels is counted at any difficulty'
                f' ({_join_reasons(each.reasons)}), so that its AP of 0 means nothing'
            )
        elif self.model_classes is not None and name not in self.model_classes:
            notes.append(f'{name}: no class of the model, so that its AP is 0')
        elif not each.detections:
            notes.append(f'{name}: no detections, so that its AP is 0')
        return notes

    def _notes_on_other_classes(self) -> list[str]:
        """Return the notes on classes that KITTI's AP does not score."""
        others = {name: each for name, each in self.by_class.items() if name not in CLASSES}
        similar = {value: key for key, value in SIMILAR_CLASSES.items()}
        notes = []
        for what in ('labels', 'detections'):
            texts = [
                f'{name} {count}'
                + (f' (ignored beside {similar[name]})' if name in similar else '')
                for name, each in others.items()
                if (count := getattr(each, what))
            ]
            if texts:
                notes.append(f'not scored: {what} of {", ".join(texts)}')
        idle = [name for name in self.model_classes or () if name not in CLASSES]
        if idle:
            notes.append(f'not scored: the classes {", ".join(idle)} of the model')
        return notes

    def _reasons_text(self) -> str:
        """Return '; REASON N, ...' of all scored classes; '' without a reason."""
        joined: dict[str, int] = {}
        for name in CLASSES:
            for reason, count in self.by_class[name].reasons.items():
                joined[reason] = joined.get(reason, 0) + count
        return f'; {_join_reasons(joined)}' if any(joined.values()) else ''


def count_objects(
    ground_truth: Sequence[Labels],
    detections: Sequence[Labels],
    model_classes: tuple[str, ...] | None = None,
) -> EvaluationCounts:
    """
    Count the frames, labels and detections of an evaluation.

    :param ground_truth: the labels of each frame, DontCare included, which is not counted.
    :param detections: the detections of the same frames.
    :param model_classes: classes of the detector; None if they are unknown.
    :return: the counts; class names in any case count as the one of CLASSES that they match.
    """
    labels, detected = (Labels.concatenate(frames) for frames in (ground_truth, detections))
    label_names, detected_names = _canonical(labels.name), _canonical(detected.name)
    others = sorted({*label_names.tolist(), *detected_names.tolist()} - {*CLASSES, _DONT_CARE})
    by_class = {
        name: _count_class(labels[label_names == name], name, int((detected_names == name).sum()))
        for name in (*CLASSES, *others)
    }
    known = None if model_classes is None else tuple(_canonical(model_classes).tolist())
    return EvaluationCounts(len(ground_truth), by_class, known)


def _count_class(labels: Labels, name: str, num_detections: int) -> ClassCount:
    scored = name in CLASSES
    valid = tuple(
        int(meets_difficulty(labels, each).sum()) if scored else 0
        for each in DIFFICULTIES.values()
    )
    height_px = labels.box_px[:, 3] - labels.box_px[:, 1]
    reasons = {
        f'lower than {HARD.min_height_px:g} px': int((height_px < HARD.min_height_px).sum()),
        f'occluded above {HARD.max_occluded}': int((labels.occluded > HARD.max_occluded).sum()),
        f'truncated above {HARD.max_truncated:g}': int(
            (labels.truncated > HARD.max_truncated).sum()
        ),
    }
    return ClassCount(len(labels), valid, reasons if scored else {}, num_detections)


def _canonical(names: Iterable[str]) -> Array:
    """Return names as CLASSES spells them; the devkit ignores case."""
    known = {name.lower(): name for name in CLASSES} | {_DONT_CARE: _DONT_CARE}
    return np.array([known.get(str(name).lower(), str(name)) for name in names], np.str_)


def _join_reasons(reasons: Mapping[str, int]) -> str:
    return ', '.join(f'{reason}: {count}' for reason, count in reasons.items() if count)
