"""
Comparisons of a study's methods: differences from the baseline, and the declared primary tests.

Differences from the baseline are descriptive: there are many, and nobody said before the runs
which of them counts. The primary tests are declared in the study and corrected for their number,
and they alone lead to a claim, once every seed or replicate of the study has its rows: looking at
the intervals after each replicate and stopping at a favourable one would find differences that are
none.

A primary test against several methods asks whether a method is above each of them (an
intersection-union test): p is the greatest of the single comparisons and counts the direction
"above" alone, which needs no correction for their number. The difference is that from the best of
them, by mean; the lower end of the interval is the least of all lower ends, so that it is above 0
if and only if all comparisons are rejected.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stl_core.experiments.statistics import (
    ALPHA,
    PairedTest,
    holm,
    paired_test,
    t_interval,
)
from stl_core.experiments.study_config import StudyConfig
from stl_core.experiments.study_table import (
    Row,
    common_seeds,
    group_without_stages,
    paired_values,
)
from stl_core.files import write_atomically
from stl_core.types import Array


@dataclass(frozen=True)
class Comparison:
    """
    A method minus another one.

    :param method: the method.
    :param baselines: the methods that it is compared with; several in a primary test that asks
        whether it is above each.
    :param against: the baseline that is subtracted: of several, that of the highest mean.
    :param seeds: seeds or replicates of the pairs.
    :param test: mean, interval and p; in percent of AP.
    :param complete: whether every seed or replicate of the study is a pair.
    :param corrected_p: Holm's adjusted p of the t-test; None for a comparison that is not primary.
    :param corrected_level: level of corrected_interval.
    :param corrected_interval: t-interval that excludes 0 if and only if Holm rejects the test.
    """

    method: str
    baselines: tuple[str, ...]
    against: str
    seeds: tuple[int, ...]
    test: PairedTest
    complete: bool
    corrected_p: float | None = None
    corrected_level: float = math.nan
    corrected_interval: tuple[float, float] = (math.nan, math.nan)

    @property
    def is_claim(self) -> bool:
        """Whether the study shows the difference: primary, complete, and rejected after Holm."""
        return self.complete and self.corrected_p is not None and self.corrected_p < ALPHA

    @property
    def label(self) -> str:
        """The comparison as text, such as 'DK3D - control'."""
        if len(self.baselines) == 1:
            return f'{self.method} - {self.against}'
        return f'{self.method} - best of ({", ".join(self.baselines)}): {self.against}'


@dataclass(frozen=True)
class Comparisons:
    """The comparisons of a study: every method with the baseline, and the primary tests."""

    descriptive: tuple[Comparison, ...]
    primary: tuple[Comparison, ...]


def compare_methods(study: StudyConfig, rows: Sequence[Row]) -> Comparisons:
    """
    Compare the methods of a study.

    :param study: names the baseline and the primary tests.
    :param rows: judged rows, sorted by seed within a method.
    :return: comparisons with the baseline of the methods that have a pair, and all primary tests.
    """
    groups = group_without_stages(rows)
    others = (name for name in study.methods if name != study.reference)
    pairs = [_compare(study, groups, name, (study.reference,)) for name in others]
    tests = [_compare(study, groups, method, tuple(rest)) for method, *rest in study.primary]
    all_differences = [_differences(groups, *names) for names in study.primary]
    results = holm([each.test.p_t for each in tests])
    corrected = [
        replace(
            each,
            corrected_p=result.p,
            corrected_level=result.level,
            corrected_interval=_interval(differences, each.test.differences, result.level),
        )
        for each, result, differences in zip(tests, results, all_differences, strict=True)
    ]
    return Comparisons(tuple(each for each in pairs if each.seeds), tuple(corrected))


def _compare(
    study: StudyConfig,
    groups: Mapping[str, Sequence[Row]],
    method: str,
    baselines: tuple[str, ...],
) -> Comparison:
    """Compare a method with a baseline, or with the best of several."""
    seeds = common_seeds(groups, method, *baselines)
    differences = _differences(groups, method, *baselines)
    index = int(differences.mean(axis=1).argmin()) if seeds else 0
    test = paired_test(differences[index])
    if len(baselines) > 1 and seeds:
        tests = [paired_test(each) for each in differences]
        test = replace(
            test,
            interval=_interval(differences, test.differences, 1 - ALPHA),
            p_t=max(each.p_t if each.mean > 0 else 1.0 for each in tests),
            p_sign_flip=max(each.p_sign_flip if each.mean > 0 else 1.0 for each in tests),
        )
    complete = set(study.numbers) <= set(seeds)
    return Comparison(method, baselines, baselines[index], tuple(seeds), test, complete)


def _differences(groups: Mapping[str, Sequence[Row]], method: str, *baselines: str) -> Array:
    """Return the (K, N) differences of a method from each of K baselines in their common seeds."""
    values = paired_values(groups, method, *baselines)
    return values[0] - values[1:]


def _interval(differences: Array, decisive: Array, level: float) -> tuple[float, float]:
    """Return the interval of (N,) decisive differences, down to the least end of all (K, N)."""
    lows = [t_interval(each, level)[0] for each in differences]
    return min(lows), t_interval(decisive, level)[1]


def write_comparisons(comparisons: Comparisons, table: Path) -> tuple[Path, Path]:
    """Write TABLE_statistics.csv and .json next to the table of a study; return their paths."""
    csv_path, json_path = statistics_paths(table)
    kinds = [('baseline', each) for each in comparisons.descriptive]
    kinds += [('primary', each) for each in comparisons.primary]
    records = [{'kind': kind, **_to_record(each)} for kind, each in kinds]
    text = io.StringIO()
    names = [name for name in _RECORD_COLUMNS if name not in ('baselines', 'differences')]
    writer = csv.DictWriter(text, names, extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    for record in records:
        writer.writerow({name: '' if each is None else each for name, each in record.items()})
    write_atomically(csv_path, text.getvalue().encode())
    write_atomically(json_path, (json.dumps(records, indent=1) + '\n').encode())
    return csv_path, json_path


def statistics_paths(table: Path) -> tuple[Path, Path]:
    """Return the CSV and the JSON file of the comparisons of a table."""
    return (
        table.with_name(f'{table.stem}_statistics.csv'),
        table.with_name(f'{table.stem}_statistics.json'),
    )


_RECORD_COLUMNS = (
    *('kind', 'method', 'against', 'baselines', 'pairs', 'complete', 'mean', 'deviation'),
    *('low', 'high', 'p_t', 'p_sign_flip', 'p_holm', 'corrected_level', 'corrected_low'),
    *('corrected_high', 'claim', 'differences'),
)


def _to_record(comparison: Comparison) -> dict[str, Any]:
    """Return plain JSON data; numbers that are not known are None."""
    test = comparison.test
    numbers = {
        'mean': test.mean,
        'deviation': test.deviation,
        'low': test.interval[0],
        'high': test.interval[1],
        'p_t': test.p_t,
        'p_sign_flip': test.p_sign_flip,
        'p_holm': math.nan if comparison.corrected_p is None else comparison.corrected_p,
        'corrected_level': comparison.corrected_level,
        'corrected_low': comparison.corrected_interval[0],
        'corrected_high': comparison.corrected_interval[1],
    }
    return {
        'method': comparison.method,
        'against': comparison.against,
        'baselines': list(comparison.baselines),
        'pairs': len(comparison.seeds),
        'complete': comparison.complete,
        **{k: round(each, 6) if math.isfinite(each) else None for k, each in numbers.items()},
        'claim': comparison.is_claim,
        'differences': {
            str(seed): round(float(each), 4)
            for seed, each in zip(comparison.seeds, test.differences, strict=True)
        },
    }
