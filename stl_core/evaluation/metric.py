"""
Interface of the evaluation metrics: Metric, its MetricResult, and MetricResults of several.

The metrics themselves are in stl_core/evaluation/metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

from stl_core.evaluation.ap_result import ApResult
from stl_core.evaluation.counts import EvaluationCounts
from stl_core.evaluation.nuscenes.results import SampleDetections
from stl_core.types import Labels

#: Name of the metric that is always computed.
KITTI = 'kitti'
#: Protocols: how a network's outputs become scored detections. OURS is that of the node, which
#: drops overlapping boxes; PUBLISHED is that of the public code of the detector, see
#: stl_core/models/published_protocol.py.
OURS, PUBLISHED = 'ours', 'published'
PROTOCOLS = (OURS, PUBLISHED)


class ProtocolDetections(NamedTuple):
    """
    Detections of the frames of a data set by each protocol.

    :param ours: one Labels per frame.
    :param published: the same for the published protocol; None if the detector has none.
    :param num_not_finite: detections that were dropped for numbers that are not finite.
    """

    ours: Sequence[Labels]
    published: Sequence[Labels] | None = None
    num_not_finite: int = 0


class JudgedSamples(NamedTuple):
    """
    Detections around a vehicle, for metrics of whole samples.

    :param detections: of every sample of the split, in the vehicle frame.
    :param classes: class names of the detector, by class_id.
    :param attributes: attribute names of the detector, by attribute_id.
    :param root: folder of the data set.
    :param version: name of its version.
    :param split: name of the split.
    """

    detections: Sequence[SampleDetections]
    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    root: str
    version: str
    split: str


class MetricResult(Protocol):
    """Result of a metric."""

    def rows(self) -> Sequence[Mapping[str, str | float]]:
        """Return its table for commands and reports: rows with the same keys, the headings."""

    def columns(self) -> Mapping[str, float]:
        """Return its numbers in val.csv and in a study's table."""

    def to_json(self) -> Any:
        """Return plain JSON data without NaN, which Metric.from_json reads back."""


class Metric(NamedTuple):
    """
    A metric of detections.

    :param evaluate: (ground truth, detections, class names) -> result. Both lists hold one Labels
        for each frame, in the same order, DontCare regions included.
    :param parse_selection: (expression, class names) -> function from a result to the number that
        selects the best model, greater is better; ValueError, starting with 'metric: ', for an
        invalid expression.
    :param from_json: result.to_json() -> result.
    :param evaluate_samples: for a metric of objects around a vehicle, which has no `evaluate` of
        images: JudgedSamples -> result, by our protocol alone.
    """

    evaluate: Callable[[Sequence[Labels], Sequence[Labels], tuple[str, ...]], MetricResult]
    parse_selection: Callable[[str, tuple[str, ...]], Callable[[Any], float]]
    from_json: Callable[[Any], MetricResult]
    evaluate_samples: Callable[[JudgedSamples], MetricResult] | None = None


@dataclass(frozen=True)
class GivenDepthResults:
    """
    KITTI's AP of a privileged network with its given depth complete, absent and of another frame.

    :param kind: kind of given depth, see preprocessing.GIVEN_DEPTHS.
    :param privilege: what the network reads that others do not, for tables.
    :param by_given: 'complete', 'absent' and, of two frames or more, 'other' -> AP.
    """

    kind: str
    privilege: str
    by_given: Mapping[str, ApResult]

    def to_json(self) -> dict[str, Any]:
        """Return the entry `given` of metrics.json."""
        texts = {'kind': self.kind, 'privilege': self.privilege}
        return texts | {'ap': {name: each.to_json() for name, each in self.by_given.items()}}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> GivenDepthResults:
        """Read to_json's structure."""
        by_given = {name: ApResult.from_json(each) for name, each in data['ap'].items()}
        return GivenDepthResults(data['kind'], data['privilege'], by_given)

    def rows(self) -> list[dict[str, str | float]]:
        """Return a table: moderate 3D AP40 of every class, by given depth."""
        return [
            {'given depth': given}
            | {
                f'{name} {criterion}': each.value('3d', 'AP40', criterion, 'moderate')
                for name, each in ap.by_class.items()
                for criterion in ('strict', 'loose')
            }
            for given, ap in self.by_given.items()
        ]


@dataclass(frozen=True)
class MetricResults:
    """
    Results of several metrics for the same detections.

    :param by_name: name of a metric -> its result; 'kitti' is always present and comes first.
    :param counts: frames, labels and detections; None for results that an older version wrote.
    :param protocol: OURS or PUBLISHED; '' for detections of unknown origin.
    :param published: results of the same network by its published protocol; None if it has none.
    :param given: AP of a privileged network with other given depth; None for other networks.
    """

    by_name: Mapping[str, MetricResult]
    counts: EvaluationCounts | None = None
    protocol: str = ''
    published: MetricResults | None = None
    given: GivenDepthResults | None = None

    @property
    def ap(self) -> ApResult:
        """Return the result of the metric 'kitti'."""
        return cast(ApResult, self.by_name[KITTI])

    @property
    def extra(self) -> dict[str, MetricResult]:
        """Return the results of all other metrics."""
        return {name: each for name, each in self.by_name.items() if name != KITTI}

    def extra_columns(self) -> dict[str, float]:
        """Return the columns of the other metrics, as 'NAME/COLUMN'."""
        return {
            f'{name}/{key}': value
            for name, each in self.extra.items()
            for key, value in each.columns().items()
        }

    def extra_json(self) -> dict[str, Any]:
        """Return {'metrics': {NAME: JSON}} of the other metrics; {} if there are none."""
        if not self.extra:
            return {}
        return {'metrics': {name: each.to_json() for name, each in self.extra.items()}}

    def published_columns(self, columns: Callable[[MetricResults], Any]) -> dict[str, float]:
        """Return columns of the published protocol, as 'published/COLUMN'; {} without one."""
        if self.published is None:
            return {}
        return {f'{PUBLISHED}/{key}': value for key, value in columns(self.published).items()}

    def to_json(self) -> dict[str, Any]:
        """Return the content of metrics.json: AP by class, extra_json and side_json."""
        return {**self.ap.to_json(), **self.extra_json(), **self.side_json()}

    def side_json(self) -> dict[str, Any]:
        """Return {'published': JSON like to_json, 'counts', 'given': JSON}, as far as known."""
        parts = {PUBLISHED: self.published, 'counts': self.counts, 'given': self.given}
        return {name: each.to_json() for name, each in parts.items() if each is not None}

    def notes(self) -> list[str]:
        """Return the notes of the counts, and on classes that only one protocol detects."""
        if self.counts is None:
            return []
        notes = self.counts.notes()
        if self.published is not None and self.published.counts is not None:
            notes += [
                f'{name}: no detections by the published protocol, so that its AP there is 0'
                for name in self.ap.by_class
                if self.counts.by_class[name].detections
                and not self.published.counts.by_class[name].detections
            ]
        return notes

    def format_table(self, points: Sequence[str] = ('AP40',)) -> str:
        """
        Format as text: the counts, then KITTI's AP and all other metrics, by each protocol.

        :param points: the kinds of AP to list, see ApResult.format_table.
        """
        parts = []
        if self.counts is not None and self.protocol != PUBLISHED:
            parts += [f'{self.counts.frames} frames', format_rows(self.counts.rows())]
        parts += [self._protocol_line()] if self.protocol else []
        parts.append(self.ap.format_table(points))
        for name, each in self.extra.items():
            parts += [f'metric {name}', format_rows(each.rows())]
        if self.published is not None:
            parts.append(self.published.format_table(points))
        elif self.protocol == OURS:
            parts.append('protocol published: this detector has none')
        if self.given is not None:
            heading = f'given depth {self.given.kind}: {self.given.privilege}; 3D AP40 moderate'
            parts += [heading, format_rows(self.given.rows())]
        return '\n'.join(parts)

    def _protocol_line(self) -> str:
        """Return the heading of a protocol's tables, with the number of its detections."""
        if self.counts is None:
            return f'protocol {self.protocol}'
        detections = ', '.join(
            f'{name} {each.detections}'
            for name, each in self.counts.by_class.items()
            if each.detections
        )
        return f'protocol {self.protocol}, detections: {detections or "none"}'


def table_cells(
    rows: Sequence[Mapping[str, str | float]],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and text cells of a table; numbers with two decimals, counts without."""
    cells = [
        tuple(f'{x:.2f}' if isinstance(x, float) else str(x) for x in row.values()) for row in rows
    ]
    return tuple(rows[0]) if rows else (), cells


def format_rows(rows: Sequence[Mapping[str, str | float]]) -> str:
    """Format a table as aligned text; the first column to the left, numbers to the right."""
    headings, cells = table_cells(rows)
    lines = [headings, *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
        '  '.join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
