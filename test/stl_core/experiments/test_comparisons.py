"""Comparisons of methods: pairs, primary tests, claims and their files."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from scipy import stats
from toy_study import a_row

from stl_core.experiments import study_config, study_table
from stl_core.experiments.report import comparisons, study_text
from stl_core.training.config_builder import ConfigError

FIGURES = {
    'control': [10.0, 12.0, 11.0, 13.0, 10.5, 12.5],
    'A': [12.1, 14.3, 12.9, 15.2, 12.4, 14.9],
    'B': [11.2, 12.4, 12.9, 13.3, 12.1, 13.0],
    'A+B': [13.5, 15.1, 14.3, 16.4, 13.2, 16.3],
}
STUDY = study_config.StudyConfig(
    plan='plan.yaml',
    stage='distil',
    methods=dict.fromkeys(FIGURES),
    replicates=(1, 2, 3, 4, 5, 6),
    primary=(('A', 'control'), ('A+B', 'A', 'B')),
)


def rows_of(figures):
    rows = [a_row('teacher (stage)', seed, 60.0) for seed in STUDY.replicates]
    return rows + [
        a_row(name, seed, value)
        for name, values in figures.items()
        for seed, value in enumerate(values, 1)
    ]


def test_primary_tests_are_paired_and_corrected():
    results = comparisons.compare_methods(STUDY, rows_of(FIGURES))
    assert [(each.method, each.against) for each in results.descriptive] == [
        ('A', 'control'),
        ('B', 'control'),
        ('A+B', 'control'),
    ]
    first, second = results.primary
    p_values = [
        stats.ttest_rel(FIGURES['A'], FIGURES['control']).pvalue,
        max(stats.ttest_rel(FIGURES['A+B'], FIGURES[name]).pvalue for name in 'AB'),
    ]
    assert [each.test.p_t for each in results.primary] == pytest.approx(p_values, rel=1e-9)
    smaller, larger = sorted(p_values)
    expected = {smaller: 2 * smaller, larger: max(2 * smaller, larger)}
    assert [each.corrected_p for each in results.primary] == pytest.approx(
        [expected[p] for p in p_values], rel=1e-9
    )
    assert second.against == 'A'
    assert second.test.mean == pytest.approx(np.subtract(FIGURES['A+B'], FIGURES['A']).mean())
    lows = [
        stats.t.interval(second.corrected_level, 5, each.mean(), stats.sem(each))[0]
        for each in (np.subtract(FIGURES['A+B'], FIGURES[name]) for name in 'AB')
    ]
    assert second.corrected_interval[0] == pytest.approx(min(lows))
    assert first.is_claim
    assert second.is_claim


def test_a_method_below_one_of_several_is_no_claim():
    """It is far below A and far above B: the two-sided p of either is small."""
    figures = {**FIGURES, 'A+B': [value - 1.0 for value in FIGURES['A']]}
    figures['B'] = [value - 9.0 for value in FIGURES['B']]
    second = comparisons.compare_methods(STUDY, rows_of(figures)).primary[1]
    assert (second.against, second.test.p_t, second.corrected_p) == ('A', 1.0, 1.0)
    assert not second.is_claim
    below = dataclasses.replace(STUDY, primary=(('control', 'A'),))
    (one,) = comparisons.compare_methods(below, rows_of(figures)).primary
    sentence = study_text.claim_sentence(one, 'Car', 'replicate')
    assert sentence.startswith('control is below A by 2.13 (Car; corrected interval -2.')


def test_nothing_is_claimed_before_every_replicate_is_there():
    rows = [row for row in rows_of(FIGURES) if (row.method, row.seed) != ('A', 6)]
    results = comparisons.compare_methods(STUDY, rows)
    assert [each.corrected_p < 0.05 for each in results.primary] == [True, True]
    assert not any(each.is_claim for each in results.primary)
    text = study_text.statistics_to_markdown(results, 'Car', 'replicate', 'control')
    assert 'A - control: no claim yet, 5 replicates; the study has more.' in text
    assert 'is above' not in text


def test_the_text_has_intervals_and_the_sentence_of_a_claim():
    results = comparisons.compare_methods(STUDY, rows_of(FIGURES))
    text = study_text.statistics_to_markdown(results, 'Car', 'replicate', 'control')
    differences = np.subtract(FIGURES['B'], FIGURES['control'])
    low, high = stats.t.interval(0.95, 5, differences.mean(), stats.sem(differences))
    cells = f'| B | 6 | {differences.mean():+.2f} ± {differences.std(ddof=1):.2f} |'
    assert f'{cells} {low:+.2f} to {high:+.2f} |' in text
    assert 'A is above control by 2.13 (Car, 3D at 0.5; corrected interval ' in text
    assert 'A+B is above the best of (A, B), A, by 1.17 (Car' in text
    unlike = {**FIGURES, 'A': [10.1, 11.8, 11.4, 12.9, 10.4, 12.8]}
    text = study_text.statistics_to_markdown(
        comparisons.compare_methods(STUDY, rows_of(unlike)), 'Car', 'replicate', 'control'
    )
    assert 'A - control: no claim, the difference may be chance.' in text
    assert 'A is above control' not in text


def test_comparisons_without_rows_are_empty(tmp_path):
    results = comparisons.compare_methods(STUDY, [a_row('control', 1, 3.0), a_row('A', 2, 4.0)])
    assert not results.descriptive
    assert [each.corrected_p for each in results.primary] == [1.0, 1.0]
    text = study_text.statistics_to_markdown(results, 'Car', 'replicate', 'control')
    assert '| A - control | 0 |  |' in text
    comparisons.write_comparisons(results, tmp_path / 'table.csv')
    (first, _) = json.loads((tmp_path / 'table_statistics.json').read_text())
    assert (first['mean'], first['differences'], first['claim']) == (None, {}, False)


def test_comparisons_are_files_next_to_the_table(tmp_path):
    results = comparisons.compare_methods(STUDY, rows_of(FIGURES))
    paths = comparisons.write_comparisons(results, tmp_path / 'table.csv')
    assert [path.name for path in paths] == ['table_statistics.csv', 'table_statistics.json']
    records = json.loads(paths[1].read_text())
    assert [each['kind'] for each in records] == ['baseline'] * 3 + ['primary'] * 2
    assert records[3]['differences']['2'] == 2.3
    assert records[4]['baselines'] == ['A', 'B']
    lines = list(csv.DictReader(paths[0].open()))
    assert float(lines[3]['corrected_low']) == records[3]['corrected_low'] > 0
    assert (lines[0]['p_holm'], lines[3]['claim']) == ('', 'True')


def test_another_baseline_is_subtracted():
    study = dataclasses.replace(STUDY, baseline='B', primary=())
    rows = rows_of(FIGURES)
    results = comparisons.compare_methods(study, rows)
    assert [each.label for each in results.descriptive] == ['control - B', 'A - B', 'A+B - B']
    assert not results.primary
    differences = study_table.paired_differences(rows, 'B')
    assert differences['control'] == pytest.approx(
        np.subtract(FIGURES['control'], FIGURES['B']), abs=1e-12
    )
    assert '3D at 0.5 vs B |' in study_text.to_markdown(rows, 'Car', 'replicate', 'B')


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('primary=[[A]]', r'primary\[0\]: expected a method and one or more others'),
        ('primary=[[A, A]]', r'primary\[0\]: expected a method and one or more others'),
        ('primary=[[A, C]]', r"primary\[0\]: 'C' is no method; known: control, A"),
        ('baseline=C', "baseline: 'C' is no method"),
        ('seeds=[1]', 'seeds, replicates: expected one of the two'),
        ('replicates=[1, 1]', 'replicates: expected each once'),
        (f'replicates={list(range(41))}', 'replicates: expected at most 40'),
        ('choose=few.txt', 'choose, judge: expected both split files or none'),
        ('tuning={replicates: [1]}', 'tuning: requires choose, judge and replicates'),
        ('tuning={replicates: []}', 'tuning: replicates: expected one or more'),
        (
            'tuning={replicates: [1], gradient_shares: [0.0]}',
            'gradient_shares: expected more than 0',
        ),
        ('methods={A @ 1: {}}', 'methods.A @ 1: .* mark tuning runs'),
    ],
)
def test_errors_name_the_key(tmp_path, override, message):
    path = tmp_path / 'study.yaml'
    path.write_text(json.dumps({**vars(STUDY), 'seeds': None, 'baseline': 'control'}))
    with pytest.raises(ConfigError, match=message):
        study_config.load_study(path, (override,))
