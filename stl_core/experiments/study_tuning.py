"""The choice among the candidates of a study's methods, by their figures on the choose split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stl_core.experiments.study_table import COMPARED_METRIC, Row, metric_values, tuning_rows
from stl_core.training.config_builder import ConfigError


def choose_candidates(rows: Sequence[Row], labels: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """
    Return the candidate of every method with the best mean of COMPARED_METRIC over its replicates.

    :param rows: rows of the table.
    :param labels: {method: labels of its candidates}, see study_plan.candidate_labels.
    :return: {method: label}, the first of equal ones; methods without tuning rows have none.
    """
    chosen = {}
    for name, known in labels.items():
        tuned = tuning_rows(rows, name)
        means = {
            label: metric_values(tuned[label], COMPARED_METRIC).mean()
            for label in known
            if label in tuned
        }
        if means:
            chosen[name] = max(means, key=means.__getitem__)
    return chosen


def check_equal_budgets(
    table: Path, rows: Sequence[Row], labels: Mapping[str, Sequence[str]]
) -> None:
    """
    Raise ConfigError if methods have different numbers of tuning rows: judging would be unfair.

    All rows of the table count, also those of candidates that the study no longer lists. A method
    with nothing to tune, see candidate_labels, is left out, unless it has rows.
    """
    counts = {
        name: sum(len(group) for group in tuning_rows(rows, name).values()) for name in labels
    }
    tuned = [name for name in counts if labels[name] or counts[name]]
    tuned = tuned if any(labels.values()) else list(counts)
    for name in tuned:
        if counts[name] != counts[tuned[0]]:
            raise ConfigError(
                f'{table}: {tuned[0]} has {counts[tuned[0]]} tuning rows, {name} {counts[name]};'
                ' no row is judged before every method has as many'
            )
