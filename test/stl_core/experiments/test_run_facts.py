"""A study's table says what every network reads, whose student it is, and AP by given depth."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import toy_study

from stl_core.cli import main
from stl_core.evaluation.ap_result import KINDS, MIN_IOU, POINTS
from stl_core.evaluation.metric import GivenDepthResults, MetricResults
from stl_core.experiments import run_facts, study, study_config, study_table
from stl_core.experiments.report import side_tables, study_text
from stl_core.preprocessing import DepthSpec, InputSpec
from stl_core.training import stages

LABELS = 'reads labels: 2D boxes and depths of the labelled objects'
DEPTH_MAP = 'sees a depth map in place of the image'


def scaled(ap, factor):
    """Return AP results whose figures are multiplied."""
    by_class = {
        name: dataclasses.replace(
            each, values={k: tuple(factor * x for x in v) for k, v in each.values.items()}
        )
        for name, each in ap.by_class.items()
    }
    return dataclasses.replace(ap, by_class=by_class)


def with_all_kinds(ap):
    """Return AP results that also have the kinds and points of AP that toy runs lack, as 0."""
    keys = [(kind, p, c) for kind in KINDS for p in POINTS for c in MIN_IOU]
    by_class = {
        name: dataclasses.replace(each, values={k: (0.0,) * 3 for k in keys} | dict(each.values))
        for name, each in ap.by_class.items()
    }
    return dataclasses.replace(ap, by_class=by_class)


@pytest.fixture
def privileged(monkeypatch, trained):
    """Runs with given depth also have a half of their AP without, and a quarter with another's."""
    plain = stages.run_stage

    def fit(resolved):
        results = MetricResults({'kitti': with_all_kinds(plain(resolved).ap)})
        kind = resolved.config.input.given_depth
        if kind:
            fractions = {'complete': 1.0, 'absent': 0.5, 'other': 0.25}
            by_given = {name: scaled(results.ap, factor) for name, factor in fractions.items()}
            given = GivenDepthResults(kind, LABELS, by_given)
            results = dataclasses.replace(results, given=given)
        out = Path(resolved.config.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / 'metrics.json').write_text(json.dumps(results.to_json()))
        return results

    monkeypatch.setattr(stages, 'run_stage', fit)
    return trained


def rows_by_name(plan):
    rows = study_table.read_table(Path(plan.table))
    return {(row.method, row.seed): row for row in rows}


def test_teachers_are_marked_and_students_name_them(tmp_path, privileged):
    plan = toy_study.a_plan_of_teachers(tmp_path)
    study.run_study(plan)
    rows = rows_by_name(plan)
    marks = {name: (row.reads, row.teacher) for (name, seed), row in rows.items() if seed == 4}
    assert marks == {
        'teacher (stage)': (DEPTH_MAP, ''),
        'base (stage)': ('', ''),
        'given (stage)': (LABELS, ''),
        'control': ('', ''),
        'DK3D': ('', f'given: {LABELS}'),  # the student itself reads the image alone
        'relation': ('', f'teacher: {DEPTH_MAP}'),
    }
    given = rows['given (stage)', 4]
    whole = given.metrics['3d/loose/moderate']
    assert given.metrics['given/absent/3d/loose/moderate'] == whole / 2
    assert given.metrics['given/other/3d/strict/moderate'] == (
        given.metrics['3d/strict/moderate'] / 4
    )
    assert not any(name.startswith('given/') for name in rows['DK3D', 4].metrics)


def test_the_tables_that_are_printed(tmp_path, privileged):
    plan = toy_study.a_plan_of_teachers(tmp_path)
    study.run_study(plan)
    rows = study_table.sort_rows(study.read_completed_rows(plan), tuple(plan.methods))
    lines = study_text.to_markdown(rows, 'Car', 'replicate').splitlines()
    assert lines[2].endswith('| reads | teacher |')
    (student,) = [each for each in lines if each.startswith('| DK3D |')]
    assert student.endswith(f'|  | given: {LABELS} |')
    text = side_tables.given_depth_to_markdown(rows, 'Car', 'replicate')
    title, _, headings, _, line = text.splitlines()
    assert 'by given depth' in title
    assert headings.count('complete') == headings.count('of another frame') == 2
    # AP of seeds 4 and 5 at the loose IoU: 8 and 10; half of it; a quarter
    assert '| 9.00 ± 1.41 | 4.50 ± 0.71 | 2.25 ± 0.35 |' in line
    assert line.startswith('| given (stage) | 2 |')
    assert line.endswith(f'| {LABELS} |')
    assert side_tables.given_depth_to_markdown(rows[:1], 'Car', 'replicate') == ''


def test_rows_of_older_versions_are_completed_from_plan_and_folders(tmp_path, privileged, capsys):
    plan = toy_study.a_plan_of_teachers(tmp_path)
    study.run_study(plan)
    table, whole = Path(plan.table), rows_by_name(plan)
    records = list(csv.DictReader(table.read_text().splitlines()))
    added = [name for name in records[0] if name.startswith('given/')] + ['reads', 'teacher']
    kept = [name for name in records[0] if name not in added]
    old = '\n'.join(','.join(row[name] for name in kept) for row in records)
    table.write_text(f'{",".join(kept)}\n{old}\n')
    privileged.clear()
    assert {row.method: row for row in study.read_completed_rows(plan)} == {
        row.method: row for row in whole.values()
    }
    assert 'given/' not in table.read_text()  # reading completes no file
    config = {
        each.name: getattr(plan, each.name)
        for each in dataclasses.fields(study_config.StudyConfig)
        if getattr(plan, each.name) is not None
    }
    (tmp_path / 'study.yaml').write_text(json.dumps(config))
    main.main(['study', str(tmp_path / 'study.yaml'), '--table-only'])
    printed = capsys.readouterr().out
    assert f'| {LABELS} |' in printed
    assert '4.50 ± 0.71' in printed
    study.run_study(plan)
    assert privileged == []
    assert rows_by_name(plan) == whole


def test_figures_of_another_run_in_the_folder_are_not_taken(tmp_path, privileged):
    plan = toy_study.a_plan_of_teachers(tmp_path, replicates=(4,))
    study.run_study(plan)
    rows = []
    for row in study_table.read_table(Path(plan.table)):
        figures = {k: v + 1 for k, v in row.metrics.items() if not k.startswith('given/')}
        rows.append(row._replace(metrics=figures))
    study_table.write_table(Path(plan.table), rows)
    completed = study.read_completed_rows(plan)
    assert not any(name.startswith('given/') for row in completed for name in row.metrics)
    text = side_tables.given_depth_to_markdown(completed, 'Car', 'replicate')
    assert text.count('not recorded') == 4


def test_what_a_network_reads():
    assert run_facts.reads_of(InputSpec(64, 32)) == ''
    assert run_facts.reads_of(InputSpec(64, 32, depth=DepthSpec())) == DEPTH_MAP
    assert run_facts.reads_of(InputSpec(64, 32, given_depth='objects')) == LABELS
    scan = run_facts.reads_of(InputSpec(64, 32, given_depth='scan'))
    assert scan == "reads a scan in the labels' 2D boxes"


def test_gates_of_a_run_are_columns_and_a_table_says_what_they_tested(
    tmp_path, monkeypatch, trained
):
    plain = stages.run_stage
    # two epochs; coefficient of variation 0.05 / 0.5 = 0.1 less rounding, 0.5
    curves = {
        'feature': [(0.4, 0.05, -0.5), (0.6, 0.045, -0.5)],
        'relation': [(0.5, 0.25, 0.95)] * 2,
    }

    def fit(resolved):
        out = Path(resolved.config.out)
        out.mkdir(parents=True, exist_ok=True)
        keys = ('mean', 'deviation', 'distance_rank')
        names = [f'metric/distill/{loss}/gate_{key}' for loss in curves for key in keys]
        lines = [','.join(['epoch', *names])]
        for epoch in range(2):
            numbers = [each for values in curves.values() for each in values[epoch]]
            lines.append(','.join(map(str, [epoch, *numbers])))
        (out / 'curves.csv').write_text('\n'.join([*lines, '']))
        return plain(resolved)

    monkeypatch.setattr(stages, 'run_stage', fit)
    plan = toy_study.a_plan_of_teachers(
        tmp_path, replicates=(4,), methods={'DK3D': {'stage': 'dk3d'}}
    )
    study.run_study(plan)
    rows = study_table.read_table(Path(plan.table))
    assert rows[-1].metrics['gate/feature/mean'] == 0.5
    assert rows[-1].metrics['gate/relation/distance_rank'] == 0.95
    text = side_tables.gates_to_markdown(rows[-1:], 'replicate').splitlines()
    assert text[-2] == (
        '| DK3D | feature | 1 | 0.500 | 0.048 | 0.095 | -0.50 | not tested: variation below 0.1 |'
    )
    assert text[-1] == (
        '| DK3D | relation | 1 | 0.500 | 0.250 | 0.500 | +0.95 |'
        ' not tested: rank correlation beyond 0.9 |'
    )
    assert side_tables.selection_verdict(0.1, -0.9) == 'tested'
    assert side_tables.gates_to_markdown([row._replace(metrics={}) for row in rows], 'seed') == ''
