"""Tables of a study beside that of its AP: privileged networks with other given depth."""

from __future__ import annotations

from collections.abc import Sequence

from stl_core.data.given_depth import ABSENT, COMPLETE, OTHER, PRIVILEGE
from stl_core.experiments.report.study_text import format_mean_std, metric_title, table_lines
from stl_core.experiments.study_table import (
    GIVEN_METRICS,
    GIVEN_PREFIX,
    Row,
    group_by_method,
    metric_values,
)

#: Headings of the three kinds of given depth.
_HEADINGS = {COMPLETE: 'complete', ABSENT: 'absent', OTHER: 'of another frame'}


def given_depth_to_markdown(rows: Sequence[Row], class_name: str, unit: str) -> str:
    """
    Format the AP of privileged networks with given depth complete, absent and of another frame.

    :param rows: judged rows of a study.
    :param class_name: class that was evaluated.
    :param unit: 'seed' or 'replicate'.
    :return: Markdown table, one line per method whose network is given depth; a cell is 'not
        recorded' if a row of the method lacks the figure. '' without such methods.
    """
    names = dict.fromkeys(row.method for row in rows if _is_given_depth(row))
    groups = group_by_method([row for row in rows if row.method in names])
    if not groups:
        return ''
    cells = []
    for name, group in groups.items():
        values = [
            format_mean_std(metric_values(group, column))
            if all(column in row.metrics for row in group)
            else 'not recorded'
            for key in GIVEN_METRICS
            for column in (_column(given, key) for given in _HEADINGS)
        ]
        reads = '; '.join(dict.fromkeys(row.reads for row in group if row.reads))
        cells.append((name, str(len(group)), *values, reads))
    titles = [
        f'{metric_title(key, class_name)}, {heading}'
        for key in GIVEN_METRICS
        for heading in _HEADINGS.values()
    ]
    heading = f'Privileged networks by given depth: {class_name}, moderate AP40'
    headings = ('method', f'{unit}s', *titles, 'reads')
    return '\n'.join([heading, '', *table_lines(headings, cells)])


def _is_given_depth(row: Row) -> bool:
    return (
        any(name.startswith(GIVEN_PREFIX) for name in row.metrics)
        or row.reads in PRIVILEGE.values()
    )


def _column(given: str, key: str) -> str:
    return key if given == COMPLETE else f'{GIVEN_PREFIX}{given}/{key}'
