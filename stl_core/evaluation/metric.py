"""
Interface of the evaluation metrics: Metric, its MetricResult, and MetricResults of several.

The metrics themselves are in stl_core/evaluation/metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

from stl_core.evaluation.ap_result import ApResult
from stl_core.types import Labels

#: Name of the metric that is always computed.
KITTI = 'kitti'


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
    """

    evaluate: Callable[[Sequence[Labels], Sequence[Labels], tuple[str, ...]], MetricResult]
    parse_selection: Callable[[str, tuple[str, ...]], Callable[[Any], float]]
    from_json: Callable[[Any], MetricResult]


@dataclass(frozen=True)
class MetricResults:
    """
    Results of several metrics for the same detections.

    :param by_name: name of a metric -> its result; 'kitti' is always present and comes first.
    """

    by_name: Mapping[str, MetricResult]

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

    def to_json(self) -> dict[str, Any]:
        """Return the content of metrics.json: AP by class, and extra_json."""
        return {**self.ap.to_json(), **self.extra_json()}

    def format_table(self) -> str:
        """Format as text: AP40 of KITTI, then the rows of every other metric."""
        tables = [
            f'metric {name}\n{format_rows(each.rows())}' for name, each in self.extra.items()
        ]
        return '\n'.join([self.ap.format_table(('AP40',)), *tables])


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
