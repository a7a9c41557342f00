"""
Counts of the labelled objects of a run: how many it teaches, and why it leaves out the others.

A run that would teach nothing raises an error with the counts and the likely reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stl_core.data.checks import taught
from stl_core.data.checks.box_agreement import check_boxes
from stl_core.data.checks.label_faults import DONT_CARE, FAULTS, describe_fault, find_faults
from stl_core.data.checks.label_table import LabelTable, stack_labels
from stl_core.data.checks.projection import check_pictures
from stl_core.data.frame_source import DataError, SourceImage
from stl_core.types import Array, Labels

#: More than this share of the objects of the taught classes left out is a warning.
LEFT_OUT_SHARE = 0.5
#: More than this share with one kind of impossible numbers is an error: the set means another
#: unit. The small angles of a set in degrees look possible.
FAULT_SHARE = {**dict.fromkeys(FAULTS, 0.5), 'rotation': 0.1}


@dataclass(frozen=True)
class SourceCounts:
    """
    Labelled objects of one source.

    :param source: key of the source in the configuration.
    :param frames: number of images.
    :param objects: {name in the labels: objects}, DontCare included.
    :param used: {class: objects that are taught}; of validation frames: that can be found.
    :param left_out: {reason, see taught.REASONS: objects}, DontCare excluded.
    :param first: {reason: where its first object is, and what it has}.
    :param faults: {kind of impossible numbers: the number of `objects` of the classes, and where
        the `first` is}.
    """

    source: str
    frames: int
    objects: dict[str, int]
    used: dict[str, int]
    left_out: dict[str, int]
    first: dict[str, str]
    faults: dict[str, dict[str, Any]]

    @property
    def of_classes(self) -> int:
        """Number of objects of the taught classes, taught or not."""
        return sum(self.used.values()) + sum(self.left_out.values()) - self.left_out[taught.CLASS]

    def line(self) -> str:
        """Return the counts in one line."""
        verb = 'taught' if self.source.startswith('train') else 'counted'
        total = sum(count for name, count in self.objects.items() if name.lower() != DONT_CARE)
        out = {r: n for r, n in self.left_out.items() if n and r != taught.CLASS}
        other = self.left_out[taught.CLASS]
        named = {name: n for name, n in self.objects.items() if name.lower() != DONT_CARE}
        regions = sum(self.objects.values()) - total
        objects, used = _text(named) or 'none', _text(self.used) or 'none'
        parts = [
            f'{self.source}: {self.frames} frames, {total} labelled objects ({objects})'
            + f' and {regions} DontCare' * (regions > 0),
            f'{sum(self.used.values())} of {self.of_classes} {verb} ({used})',
            f'not {verb}: {_text(out)}' if out else '',
            f'{other} of other classes' if other else '',
        ]
        return '; '.join(filter(None, parts))


def count_objects(
    source: str, images: Sequence[SourceImage], table: LabelTable, reasons: Array
) -> SourceCounts:
    """
    Count the labelled objects of a source.

    :param source: key of the source, for messages.
    :param images: its images.
    :param table: their labels.
    :param reasons: (N,) why each object is not used, one of taught.REASONS; '' for used objects.
    """
    labels = table.labels
    names, inverse = np.unique(labels.name, return_inverse=True)
    is_dont_care = np.char.lower(labels.name) == DONT_CARE
    left_out = np.where(is_dont_care, '', reasons)
    kinds = np.where(left_out == taught.IMPOSSIBLE, find_faults(labels), '')
    first = {}
    for reason in taught.REASONS:
        for index in np.flatnonzero(left_out == reason)[:1].tolist():
            first[reason] = f'{table.location(images, index)}: {_describe(labels, index, reason)}'
    faults = {}
    for kind in FAULTS:
        if len(found := np.flatnonzero(kinds == kind)):
            where = f'{table.location(images, found[0])}: {FAULTS[kind].text(labels, found[0])}'
            faults[kind] = {'objects': len(found), 'first': where}
    return SourceCounts(
        source=source,
        frames=len(images),
        objects=_counts(inverse.reshape(-1), names),
        used=_counts(inverse.reshape(-1)[reasons == ''], names),
        left_out={reason: int((left_out == reason).sum()) for reason in taught.REASONS},
        first=first,
        faults=faults,
    )


def _counts(indices: Array, names: Array) -> dict[str, int]:
    counts = np.bincount(indices, minlength=len(names)).tolist()
    return {str(name): count for name, count in zip(names, counts, strict=True) if count}


def reasons_of_validation(table: LabelTable, classes: tuple[str, ...]) -> Array:
    """Return why each object cannot be found by a detector of these classes; (N,) str."""
    labels = table.labels
    reasons = np.where(find_faults(labels) != '', taught.IMPOSSIBLE, '')
    return np.where(np.isin(labels.name, classes), reasons, taught.CLASS)


def check_source(
    counts: SourceCounts, images: Sequence[SourceImage], table: LabelTable, sizes_px: Array
) -> list[str]:
    """
    Hold labels, projections and pictures of a source against each other.

    :return: warnings, which name the first file.
    :raises DataError: for a set that cannot be what it says, naming file and line.
    """
    picture_warning = check_pictures(images, sizes_px)
    for kind, fault in counts.faults.items():
        if fault['objects'] > FAULT_SHARE[kind] * counts.of_classes:
            raise DataError(
                f'{fault["first"]}; {FAULTS[kind].expected} ({fault["objects"]} of'
                f' {counts.of_classes} objects of {counts.source})'
            )
    box_warning = check_boxes(images, table, sizes_px)
    impossible = counts.left_out[taught.IMPOSSIBLE]
    fault_warning = (
        f'{impossible} objects have impossible numbers and are left out; first:'
        f' {counts.first[taught.IMPOSSIBLE]}'
        if impossible
        else ''
    )
    warnings = filter(None, (picture_warning, box_warning, fault_warning))
    return [f'{counts.source}: {warning}' for warning in warnings]


def check_images(images: Sequence[SourceImage]) -> list[str]:
    """
    Hold labels, projections and pictures of a data set against each other.

    Sizes come from the headers of pictures; sets without them are not held against pictures.

    :param images: images with or without labels.
    :return: warnings, which name the first file.
    :raises DataError: for projections, pictures and labels that contradict each other.
    """
    table = stack_labels(images)
    warnings = []
    if all(image.size_px.exists for image in images):
        sizes_px = np.array([image.size_px.read() for image in images]).reshape(-1, 2)
        warnings = [check_pictures(images, sizes_px), check_boxes(images, table, sizes_px)]
    (rows,) = np.nonzero(find_faults(table.labels) != '')
    if len(rows):
        first, row = table.location(images, rows[0]), int(rows[0])
        warnings.append(
            f'{first}: {describe_fault(table.labels, row)}; {len(rows)} of {len(table.labels)}'
            ' labelled objects have such impossible numbers'
        )
    return [warning for warning in warnings if warning]


def check_use(counts: Sequence[SourceCounts], role: str, classes: tuple[str, ...]) -> list[str]:
    """
    Check that the sources of a role have objects to use, of every class.

    :param counts: counts of all sources of the role; at least one.
    :param role: 'train' or 'val'.
    :param classes: the taught classes.
    :return: warnings.
    :raises DataError: for no object to use, and for a class that labels name in another spelling.
    """
    used = _sum(each.used for each in counts)
    left_out = _sum(each.left_out for each in counts)
    of_classes = sum(each.of_classes for each in counts)
    names = list(_sum(each.objects for each in counts))
    lines = '; '.join(each.line() for each in counts)
    verb = 'teach' if role == 'train' else 'evaluate on'
    if misspelt := _other_spelling(classes, names):
        raise DataError(f'{role}.sources: {misspelt}. {lines}')
    if not sum(used.values()):
        raise DataError(
            f'{role}.sources: nothing to {verb}: {_likely_reason(counts, left_out)}. {lines}'
        )
    warnings = [
        f'{role}: no labelled object of class {name} to {verb}; labels have {", ".join(names)}'
        for name in classes
        if not used[name]
    ]
    out = of_classes - sum(used.values())
    if out > LEFT_OUT_SHARE * of_classes:
        warnings.append(
            f'{role}: {out} of {of_classes} labelled objects of the classes are left out:'
            f' {_likely_reason(counts, left_out)}'
        )
    return warnings


def to_json(counts: Sequence[SourceCounts], warnings: Sequence[str]) -> dict[str, Any]:
    """Return the counts of all sources of a role, and the warnings, as plain data."""
    return {'sources': [asdict(each) for each in counts], 'warnings': list(warnings)}


def _other_spelling(classes: tuple[str, ...], names: Sequence[str]) -> str:
    """Describe a class that no label names, though labels name it in another spelling."""
    by_key = {_key(name): name for name in names}
    for name in classes:
        if name not in names and _key(name) in by_key:
            return f'labels say {by_key[_key(name)]}, classes say {name}: spell them alike'
    return ''


def _key(name: str) -> str:
    return ''.join(filter(str.isalnum, name.lower()))


def _likely_reason(counts: Sequence[SourceCounts], left_out: Counter[str]) -> str:
    """Return the most frequent reason for leaving out objects, with the first example."""
    if not sum(left_out.values()):
        return f'no labelled object in {sum(each.frames for each in counts)} frames'
    within = Counter({reason: n for reason, n in left_out.items() if reason != taught.CLASS})
    reason = (within if any(within.values()) else left_out).most_common(1)[0][0]
    example = next(each.first[reason] for each in counts if reason in each.first)
    return f'{left_out[reason]} objects left out for their {reason}, such as {example}'


def _describe(labels: Labels, index: int, reason: str) -> str:
    """Describe the number of an object that is the reason to leave it out."""
    name, box = labels.name[index], labels.box_px[index]
    return {
        taught.CLASS: f'{name}',
        taught.IMPOSSIBLE: describe_fault(labels, index),
        taught.DEPTH: f'{name} at {labels.center_m[index, 2]:g} m',
        taught.HEIGHT: f'{name}, {box[3] - box[1]:g} px high',
        taught.TRUNCATION: f'{name}, truncated {labels.truncated[index]:g}',
        taught.OCCLUSION: f'{name}, occluded {labels.occluded[index]}',
        taught.MAX_OBJECTS: f'{name}, not among the nearest',
        taught.CANVAS: f'{name}, off the canvas',
    }[reason]


def _sum(counts: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def _text(counts: dict[str, int]) -> str:
    return ', '.join(f'{name} {count}' for name, count in counts.items())
