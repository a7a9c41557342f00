"""Studies of replicates: earlier stages of each, their folders, resuming, stages of methods."""

import dataclasses
import json
import re

import pytest
from toy_study import a_plan, a_plan_of_teachers, replace_training

from stl_core.cli import main
from stl_core.experiments import run_queue, study, study_plan, study_table
from stl_core.training.config_builder import ConfigError


@pytest.fixture
def trained(monkeypatch):
    """Replace training: AP is the replicate, plus the weights of the distillation losses."""
    return replace_training(
        monkeypatch,
        lambda config: (
            config.seed
            + sum(each for key, each in config.weights.items() if key.startswith('distill/'))
        ),
    )


def test_every_replicate_has_stages_and_methods_of_its_own(tmp_path):
    plan = a_plan_of_teachers(tmp_path)
    blocks = study_plan.plan_blocks(plan)
    assert [[run.method for run in block.stages] for block in blocks] == [
        ['teacher (stage)', 'base (stage)', 'given (stage)']
    ] * 2
    out = f'{tmp_path}/runs/5'
    teacher, base, given = (run.config for run in blocks[1].stages)
    control, dk3d, relation = (run.config for run in blocks[1].runs)
    assert {run.config.seed for part in blocks[1] for run in part} == {5}
    assert (teacher.out, base.out) == (f'{out}/stages/teacher', f'{out}/stages/base')
    assert (given.out, given.start) == (
        f'{out}/stages/given',
        f'{out}/stages/base/student.safetensors',
    )
    assert dk3d.distill.teacher == f'{out}/stages/given/student.pt'
    assert relation.distill.teacher == f'{out}/stages/teacher/student.safetensors'
    assert {each.start for each in (control, dk3d, relation)} == {given.start}
    assert dk3d.out == f'{out}/methods/DK3D'
    everything = [run.config.out for block in blocks for part in block for run in part]
    assert len(set(everything)) == len(everything) == 12
    assert 'x/' not in {text[:2] for text in everything}


def test_only_stages_that_a_method_needs_are_trained(tmp_path):
    plan = a_plan_of_teachers(tmp_path)

    def stages_of(**methods):
        changed = dataclasses.replace(plan, methods=methods)
        return [run.method.split()[0] for run in study_plan.plan_blocks(changed)[0].stages]

    assert stages_of(control={'stage': 'control'}) == ['base']
    assert stages_of(DK3D={'stage': 'dk3d'}) == ['base', 'given']
    assert stages_of(DK3D={'stage': 'dk3d', 'distill': None}) == ['base']
    assert stages_of(none={'start': ''}) == []
    assert stages_of(unusual={'start': 'x/unused/last.pt'}) == ['unused']


def test_a_method_may_vary_another_stage_of_the_plan(tmp_path):
    """With `stage` it keeps the losses of the plan, unless it names losses or none."""
    dk3d = {'stage': 'dk3d'}
    relation = {
        'distill': {'losses': {'relation': {}}},
        'weights': {'distill/relation': 1.0},
    }
    methods = {
        'as planned': dk3d,
        'heavier': {**dk3d, 'weights': {'distill/feature': 7.0}},
        'relation': {**dk3d, **relation},
        'none': {**dk3d, 'distill': None},
        'no loss': {**dk3d, 'distill': {'losses': {}}},
        'default stage': {},
    }
    plan = dataclasses.replace(a_plan_of_teachers(tmp_path), methods=methods)
    runs = {run.method: run.config for run in study_plan.plan_blocks(plan)[0].runs}

    def distillation(name):
        weights = runs[name].weights
        return {key: each for key, each in weights.items() if key.startswith('distill/')}

    assert distillation('as planned') == {'distill/feature': 2.0}
    assert distillation('heavier') == {'distill/feature': 7.0}
    assert distillation('relation') == {'distill/relation': 1.0}
    assert runs['relation'].distill.losses.keys() == {'relation'}
    assert [runs[name].distill for name in ('none', 'no loss', 'default stage')] == [None] * 3
    with pytest.raises(ConfigError, match=r"methods.odd.stage: .* but no 'dk4d'"):
        study_plan.plan_runs(dataclasses.replace(plan, methods={'odd': {'stage': 'dk4d'}}))
    with pytest.raises(ConfigError, match=r'methods\.odd: expected keys and values, got 3'):
        study_plan.plan_runs(dataclasses.replace(plan, methods={'odd': 3}))


def test_a_method_may_be_limited_to_some_replicates(tmp_path, trained):
    plan = a_plan_of_teachers(tmp_path)
    methods = {**plan.methods, 'relation': {**plan.methods['relation'], 'replicates': [5, 9]}}
    limited = dataclasses.replace(plan, methods=methods)
    blocks = study_plan.plan_blocks(limited)
    assert [[run.method for run in block.runs] for block in blocks] == [
        ['control', 'DK3D'],
        ['control', 'DK3D', 'relation'],
    ]
    assert [len(block.stages) for block in blocks] == [2, 3]  # `relation` alone needs `teacher`
    study.run_study(limited)
    differences = study_table.paired_differences(study_table.read_table(tmp_path / 'table.csv'))
    assert {name: len(values) for name, values in differences.items()} == {
        'DK3D': 2,
        'relation': 1,
    }
    with pytest.raises(ConfigError, match=r'methods\.relation\.replicates: the study has seeds'):
        study_plan.plan_runs(dataclasses.replace(limited, replicates=(), seeds=(5,)))
    for key, value in (('replicates', 3), ('stage', [1]), ('tuning', 'some')):
        wrong = dataclasses.replace(plan, methods={'odd': {key: value}})
        with pytest.raises(ConfigError, match=rf'methods\.odd\.{key}: expected '):
            study_plan.plan_runs(wrong)


def test_stages_are_trained_in_groups_that_do_not_need_each_other(tmp_path):
    (block, _) = study_plan.plan_blocks(a_plan_of_teachers(tmp_path))
    groups = [[run.method.split()[0] for run in group] for group in study_plan.waves(block.stages)]
    assert groups == [['teacher', 'base'], ['given']]


def test_the_table_has_the_stages_of_every_replicate(tmp_path, trained):
    plan = a_plan_of_teachers(tmp_path)
    study.run_study(plan)
    rows = study_table.read_table(tmp_path / 'table.csv')
    stages = ['teacher (stage)', 'base (stage)', 'given (stage)']
    assert [row[:2] for row in rows] == [
        (name, replicate)
        for replicate in (4, 5)
        for name in (*stages, 'control', 'DK3D', 'relation')
    ]
    figures = {row[:2]: row.metrics['3d/loose/moderate'] for row in rows}
    assert figures['DK3D', 5] == 2 * (5 + 2.0)
    assert figures['relation', 4] == 2 * (4 + 3.0)
    assert study_table.paired_differences(rows)['DK3D'].tolist() == [4.0, 4.0]
    study.run_study(plan)
    assert len(trained) == 12
    assert 'split' not in (tmp_path / 'table.csv').read_text().splitlines()[0]


@pytest.mark.parametrize('stopped_at', range(1, 12))
def test_a_study_resumes_in_mid_replicate(tmp_path, monkeypatch, stopped_at):
    """Stopped at any run, it ends with the same table; a run that has a row is not repeated."""
    plan, table = a_plan_of_teachers(tmp_path), tmp_path / 'table.csv'
    outs = []

    def figure(config):
        if len(outs) == stopped_at:
            outs.append('stopped')
            raise KeyboardInterrupt
        outs.append(config.out)
        return config.seed * 3.0

    replace_training(monkeypatch, figure)
    with pytest.raises(KeyboardInterrupt):
        study.run_study(plan)
    assert len(study_table.read_table(table)) == stopped_at
    done = set(outs)
    outs.clear()
    outs.extend(['before'] * 12)  # never stopped again
    study.run_study(plan)
    rows = table.read_text().splitlines()
    again = [out for out in outs[12:] if out in done]
    # only stages of an unfinished replicate, which are skipped if their folder has them
    assert all(f'/{4 if stopped_at < 6 else 5}/stages/' in out for out in again)
    table.unlink()
    study.run_study(plan)
    assert table.read_text().splitlines() == rows


def test_a_stage_must_reproduce_the_row_of_its_replicate(tmp_path, trained):
    plan, table = a_plan_of_teachers(tmp_path), tmp_path / 'table.csv'
    study.run_study(plan)
    lines = table.read_text().splitlines(True)
    wrong = [
        line.replace('5.0000', '5.5000') if 'base (stage),5' in line else line for line in lines
    ]
    table.write_text(''.join(wrong[:-1]))
    with pytest.raises(ConfigError, match=r'base \(stage\), seed 5: the table was made with anot'):
        study.run_study(plan)
    # a replicate that is complete needs no stage: another machine may have trained it
    trained.clear()
    wrong = [
        line.replace('4.0000', '4.5000') if 'base (stage),4' in line else line for line in lines
    ]
    table.write_text(''.join(wrong[:-1]))
    study.run_study(plan)
    assert [out.split('runs/')[1] for out in trained] == [
        *('5/stages/teacher', '5/stages/base', '5/stages/given', '5/methods/relation')
    ]


def test_stages_of_a_replicate_are_trained_in_parallel(tmp_path, trained, monkeypatch):
    calls = []

    def all_at_once(function, configs, jobs, threads):
        calls.append(([config.out.split('/')[-1] for config in configs], jobs))
        yield from ((index, run_queue._run(config)) for index, config in enumerate(configs))

    monkeypatch.setattr(run_queue, 'map_as_completed', all_at_once)
    study.run_study(a_plan_of_teachers(tmp_path, replicates=(4,)), num_jobs=2)
    assert calls == [
        (['teacher', 'base'], 2),
        (['given'], 2),
        (['control', 'DK3D', 'relation'], 2),
    ]
    calls.clear()
    (tmp_path / 'other').mkdir()
    study.run_study(a_plan(tmp_path / 'other'), num_jobs=2)
    assert [names for names, _ in calls] == [['4', '4', '5', '5']]  # seeds: stages one by one


def test_the_command_prints_statistics(tmp_path, trained, capsys):
    plan = a_plan_of_teachers(tmp_path, primary=(('DK3D', 'control'), ('relation', 'DK3D')))
    path = tmp_path / 'study.yaml'
    path.write_text(json.dumps({**dataclasses.asdict(plan), 'seeds': None}))
    main.main(['study', str(path)])
    text = capsys.readouterr().out
    assert '| method | replicates | 3D at 0.7 |' in text
    assert '| teacher (stage) | 2 | 4.50 ± 0.71 |' in text
    assert '| DK3D | 2 | +4.00 ± 0.00 | +4.00 to +4.00 | 0.0000 | 0.5000 |' in text
    assert 'DK3D is above control by 4.00 (Car, 3D at 0.5; corrected interval' in text
    assert re.search(r'statistics: \S+table_statistics.csv, \S+table_statistics.json', text)
    records = json.loads((tmp_path / 'table_statistics.json').read_text())
    assert [each['kind'] for each in records] == ['baseline', 'baseline', 'primary', 'primary']
    main.main(['study', str(path), '--table-only', 'replicates=[4, 5, 6]'])
    assert 'no claim yet, 2 replicates' in capsys.readouterr().out
