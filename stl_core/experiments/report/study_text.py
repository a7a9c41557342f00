"""Text of a study: its table in Markdown, the choices of tuning, and its tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from stl_core.evaluation.ap_result import MIN_IOU, class_min_iou
from stl_core.evaluation.metric import PUBLISHED
from stl_core.experiments.report.comparisons import Comparison, Comparisons
from stl_core.experiments.statistics import ALPHA
from stl_core.experiments.study_table import (
    COMPARED_METRIC,
    Row,
    group_by_method,
    group_without_stages,
    metric_values,
    paired_differences,
    tuning_rows,
)
from stl_core.types import Array

#: Metrics of the Markdown table and the chart: AP40 at moderate difficulty.
DISPLAYED_METRICS = (
    '3d/strict/moderate',
    '3d/loose/moderate',
    'bev/strict/moderate',
    'bev/loose/moderate',
)
#: The same by the published protocol of the detector, for the runs that have them.
PUBLISHED_METRICS = tuple(f'{PUBLISHED}/3d/{criterion}/moderate' for criterion in MIN_IOU)


def to_markdown(
    rows: Sequence[Row], class_name: str, unit: str = 'seed', baseline: str = ''
) -> str:
    """
    Format means and standard deviations over seeds, and of the differences seed by seed.

    :param rows: rows of a study, its first method before the others.
    :param class_name: class that was evaluated.
    :param unit: name of what a row's seed is, 'seed' or 'replicate'.
    :param baseline: method that is subtracted in the differences; '' is the first one.
    :return: Markdown table; deviations are of the sample, so a single seed has none. The published
        protocol has columns if a run has it, empty for methods of which a run lacks it. `reads`
        says what a network reads besides the image when it runs, `teacher` which teacher it had.
    """
    published = [key for key in PUBLISHED_METRICS if any(key in row.metrics for row in rows)]
    texts = [name for name in ('reads', 'teacher') if any(getattr(row, name) for row in rows)]
    titles = [
        *(metric_title(key, class_name) for key in DISPLAYED_METRICS),
        difference_title(rows, class_name, baseline),
        *(metric_title(key, class_name) for key in published),
        *texts,
    ]
    lines = [
        f'{class_name}, AP40, moderate, last epoch, protocol ours unless published is written;'
        f' mean ± standard deviation over {unit}s;'
        f' "vs": of the differences between runs of the same {unit}',
        '',
        f'| method | {unit}s | {" | ".join(titles)} |',
        f'|---|---|{"---|" * len(titles)}',
    ]
    against = paired_differences(rows, baseline)
    for name, group in group_by_method(rows).items():
        cells = [format_mean_std(metric_values(group, key)) for key in DISPLAYED_METRICS]
        cells.append(format_mean_std(against[name], '+') if name in against else '')
        for key in published:
            have = [row for row in group if key in row.metrics]
            # a mean over some of the seeds would stand beside means over all of them
            whole = len(have) == len(group)
            cells.append(format_mean_std(metric_values(group, key)) if whole else '')
        for text in texts:
            cells.append('; '.join(dict.fromkeys(filter(None, (getattr(r, text) for r in group)))))
        lines.append(f'| {name} | {len(group)} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def metric_title(key: str, class_name: str) -> str:
    """Return the title of a metric with the class's IoU: '3D at 0.7', 'published 3D at 0.7'."""
    *protocol, kind, criterion, _ = key.split('/')
    title = f'{kind.upper()} at {class_min_iou(class_name, kind, criterion):g}'
    return ' '.join([*protocol, title])


def difference_title(rows: Sequence[Row], class_name: str, baseline: str = '') -> str:
    """Return the title of the differences from a method, '' for the first: '3D at 0.5 vs base'."""
    baseline = baseline or next(iter(group_without_stages(rows)), 'none')
    return f'{metric_title(COMPARED_METRIC, class_name)} vs {baseline}'


def format_mean_std(values: Array, sign: str = '') -> str:
    """Return '1.23 ± 0.45', the mean and sample deviation of (R,) values; '1.23' for one."""
    spread = f' ± {values.std(ddof=1):.2f}' if len(values) > 1 else ''
    return f'{values.mean():{sign}.2f}{spread}'


def statistics_to_markdown(
    comparisons: Comparisons, class_name: str, unit: str, baseline: str
) -> str:
    """
    Format the comparisons of a study, and a sentence for every claim that they support.

    :param comparisons: comparisons with the baseline, and primary tests.
    :param class_name: class that was evaluated.
    :param unit: 'seed' or 'replicate'.
    :param baseline: method from which the others are subtracted.
    :return: Markdown.
    """
    metric = f'{class_name}, {metric_title(COMPARED_METRIC, class_name)}'
    headings = ('pairs', 'mean ± deviation', '95 % interval', 't-test p', 'sign-flip p')
    lines = [
        f'{metric}, difference from {baseline} {unit} by {unit}; not corrected for the number of'
        ' methods',
        '',
        *table_lines(
            ('method', *headings),
            [(each.method, *_test_cells(each)) for each in comparisons.descriptive],
        ),
    ]
    if not comparisons.primary:
        return '\n'.join(lines)
    corrected = ('Holm p', 'corrected interval')
    lines += [
        '',
        f'Primary tests: {len(comparisons.primary)}, together wrong in at most {100 * ALPHA:g} %'
        " of studies by Holm's correction of the t-tests",
        '',
        *table_lines(
            ('test', *headings, *corrected),
            [
                (each.label, *_test_cells(each), *_corrected_cells(each))
                for each in comparisons.primary
            ],
        ),
        '',
        *(claim_sentence(each, metric, unit) for each in comparisons.primary),
    ]
    return '\n'.join(lines)


def claim_sentence(comparison: Comparison, metric: str, unit: str) -> str:
    """Return the sentence that a primary test supports, or why it supports none."""
    pairs = len(comparison.seeds)
    if not comparison.complete:
        return f'{comparison.label}: no claim yet, {pairs} {unit}s; the study has more.'
    if not comparison.is_claim:
        return f'{comparison.label}: no claim, the difference may be chance.'
    mean = comparison.test.mean
    others = f'the best of ({", ".join(comparison.baselines)}), {comparison.against},'
    against = comparison.against if len(comparison.baselines) == 1 else others
    return (
        f'{comparison.method} is {"above" if mean > 0 else "below"} {against} by {abs(mean):.2f}'
        f' ({metric}; corrected interval {_interval(comparison.corrected_interval)},'
        f' {pairs} {unit}s).'
    )


def tuning_to_markdown(
    rows: Sequence[Row], method_names: Sequence[str], chosen: Mapping[str, str], class_name: str
) -> str:
    """
    Format the tuning rows of a study: the mean of every candidate on the choose split.

    :param rows: rows of the table, tuning rows among them.
    :param method_names: methods of the study.
    :param chosen: {method: label of the candidate that is judged}.
    :param class_name: class that was evaluated.
    :return: Markdown; '' if there are no tuning rows.
    """
    cells = []
    for name in method_names:
        for label, group in tuning_rows(rows, name).items():
            mean = format_mean_std(metric_values(group, COMPARED_METRIC))
            mark = 'chosen' if chosen.get(name) == label else ''
            cells.append((name, label, str(len(group)), mean, mark))
    if not cells:
        return ''
    title = metric_title(COMPARED_METRIC, class_name)
    headings = ('method', 'candidate', 'replicates', title, '')
    lines = [
        f'Tuning, {class_name}, {title}, on the choose split',
        '',
        *table_lines(headings, cells),
    ]
    return '\n'.join(lines)


def table_lines(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f'| {" | ".join(row)} |' for row in (headings, ['---'] * len(headings), *cells)]


def _test_cells(comparison: Comparison) -> tuple[str, ...]:
    test = comparison.test
    if not comparison.seeds:
        return '0', '', '', '', ''
    return (
        str(len(comparison.seeds)),
        format_mean_std(test.differences, '+'),
        _interval(test.interval),
        _format_p(test.p_t),
        _format_p(test.p_sign_flip),
    )


def _corrected_cells(comparison: Comparison) -> tuple[str, str]:
    p = math.nan if comparison.corrected_p is None else comparison.corrected_p
    return _format_p(p), _interval(comparison.corrected_interval)


def _interval(interval: tuple[float, float]) -> str:
    """Return '+0.51 to +3.20'; '' without an interval."""
    low, high = interval
    return '' if math.isnan(low) else f'{low:+.2f} to {high:+.2f}'


def _format_p(p: float) -> str:
    return '' if math.isnan(p) else f'{p:.4f}'
