"""Tables of a study beside that of its AP: networks with other given depth, gates of losses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stl_core.data.given_depth import ABSENT, COMPLETE, OTHER, PRIVILEGE
from stl_core.experiments.report.study_text import format_mean_std, metric_title, table_lines
from stl_core.experiments.study_table import (
    GATE_PREFIX,
    GIVEN_METRICS,
    GIVEN_PREFIX,
    Row,
    group_by_method,
    metric_values,
)

#: A gate tests selection if the coefficient of variation of its weights is at least the first
#: number, and its rank correlation with distance at most the second, either sign.
LEAST_VARIATION, GREATEST_RANK = 0.1, 0.9
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


def gates_to_markdown(rows: Sequence[Row], unit: str) -> str:
    """
    Format what the gates of each method did, and where they could not select objects at all.

    A gate whose weights hardly differ, or differ by distance alone, is no test of selection by
    uncertainty, whatever the AP: its line says so.

    :param rows: judged rows of a study.
    :param unit: 'seed' or 'replicate'.
    :return: Markdown table, one line per method and loss with a gate; '' without any.
    """
    cells = []
    for name, group in group_by_method(rows).items():
        for loss in dict.fromkeys(_gated_losses(group)):
            keys = [f'{GATE_PREFIX}{loss}/{key}' for key in ('mean', 'deviation', 'distance_rank')]
            have = [row for row in group if all(key in row.metrics for key in keys)]
            mean, deviation, rank = (metric_values(have, key) for key in keys)
            variation = deviation / np.where(mean > 0, mean, 1.0)
            verdict = selection_verdict(float(variation.mean()), float(rank.mean()))
            figures = [f'{each.mean():.3f}' for each in (mean, deviation, variation)]
            cells.append((name, loss, str(len(have)), *figures, f'{rank.mean():+.2f}', verdict))
    if not cells:
        return ''
    columns = ('mean', 'deviation', 'variation', 'rank correlation with distance', 'selection')
    headings = ('method', 'gate of', f'{unit}s', *columns)
    heading = 'Gates: weights of objects or pairs within a step, mean over epochs'
    return '\n'.join([heading, '', *table_lines(headings, cells)])


def selection_verdict(variation: float, rank: float) -> str:
    """
    Return whether a gate tests selection.

    :param variation: coefficient of variation of its weights.
    :param rank: rank correlation of its weights with distance.
    """
    reasons = []
    if variation < LEAST_VARIATION:
        reasons.append(f'variation below {LEAST_VARIATION:g}')
    if abs(rank) > GREATEST_RANK:
        reasons.append(f'rank correlation beyond {GREATEST_RANK:g}')
    return f'not tested: {", ".join(reasons)}' if reasons else 'tested'


def _gated_losses(group: Sequence[Row]) -> list[str]:
    names = [name for row in group for name in row.metrics if name.startswith(GATE_PREFIX)]
    return [name.split('/')[1] for name in names]


def _is_given_depth(row: Row) -> bool:
    return (
        any(name.startswith(GIVEN_PREFIX) for name in row.metrics)
        or row.reads in PRIVILEGE.values()
    )


def _column(given: str, key: str) -> str:
    return key if given == COMPLETE else f'{GIVEN_PREFIX}{given}/{key}'
