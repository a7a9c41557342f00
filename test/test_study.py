"""The grid of methods and seeds: what is run, what is in the table, what is gone on with."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from stl_core import cli, stages, study, study_table, train
from stl_core.strict import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def a_plan(tmp_path, **distil):
    plan = {
        'weights': {},
        'epochs': 2,
        'eval_every': 0,
        'stages': {
            'teacher': {'out': 'x/teacher', 'input': {'depth': {}}},
            'distil': {
                'out': 'x/distil',
                'distill': {
                    'teacher': 'x/teacher',
                    'losses': {'feature': {}},
                    'layers': {'width': 16},
                },
                'weights': {'distill/feature': 1.0},
                **distil,
            },
        },
    }
    (tmp_path / 'plan.yaml').write_text(yaml.safe_dump(plan, sort_keys=False))
    return study.StudyConfig(
        plan=str(tmp_path / 'plan.yaml'),
        stage='distil',
        methods={
            'base': None,
            'selective': {
                'distill': {'losses': {'relation': {'cells': 5}}},
                'weights': {'distill/relation': 3.0},
            },
        },
        seeds=(4, 5),
        out=str(tmp_path / 'runs'),
        table=str(tmp_path / 'table.csv'),
    )


@pytest.fixture
def trained(monkeypatch):
    """Make training instant: AP is the seed, plus ten where there is a teacher."""
    done = []

    def fit(config):
        done.append(config.out)
        value = config.seed + 10.0 * bool(config.distill)
        levels = {'strict': [0.0, value, 0.0], 'loose': [0.0, 2 * value, 0.0]}
        return {'Car': {kind: {'AP40': levels} for kind in ('3d', 'bev')}}

    monkeypatch.setattr(train, 'fit', fit)
    monkeypatch.setattr(stages, 'run', fit)
    monkeypatch.setattr(study.learner, 'pinned', lambda config: config)
    return done


def test_runs_differ_by_method_and_seed_alone(tmp_path):
    before, runs = study.lay_out(a_plan(tmp_path))
    assert [work.method for work in before] == ['teacher (stage)']
    assert [(work.method, work.config.seed) for work in runs] == [
        ('base', 4),
        ('selective', 4),
        ('base', 5),
        ('selective', 5),
    ]
    base, selective = runs[0].config, runs[1].config
    assert base.distill is None
    assert selective.distill.losses.keys() == {'relation'}
    assert selective.distill.losses['relation'].cells == 5
    assert selective.distill.layers.width == 16
    assert selective.weights == {**base.weights, 'distill/relation': 3.0}
    assert (base.epochs, base.optim) == (selective.epochs, selective.optim)
    assert len({work.config.out for work in runs}) == 4


def test_every_committed_study_can_be_laid_out(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in sorted((ROOT / 'config/study').glob('*.yaml')):
        before, runs = study.lay_out(study.load(path))
        assert before
        assert len({study.digest(work.config) for work in runs}) == len(runs)


def test_a_finished_run_is_a_row_and_is_not_run_again(tmp_path, trained, monkeypatch):
    plan = a_plan(tmp_path)
    study.run(plan)
    assert len(trained) == 5
    rows = study_table.read(tmp_path / 'table.csv')
    assert [row.figures['3d/strict/moderate'] for row in rows] == [444, 4, 14, 5, 15]
    study.run(plan)
    assert len(trained) == 5


def test_a_study_that_was_stopped_goes_on(tmp_path, trained, monkeypatch):
    plan = a_plan(tmp_path)
    study.run(plan)
    whole = (tmp_path / 'table.csv').read_text()
    lines = whole.splitlines(True)
    (tmp_path / 'table.csv').write_text(''.join(lines[:3]) + lines[3][:9])  # a torn line
    trained.clear()
    study.run(plan)
    assert len(trained) == 3
    assert (tmp_path / 'table.csv').read_text() == whole


def test_a_row_of_another_configuration_is_refused(tmp_path, trained):
    study.run(a_plan(tmp_path))
    with pytest.raises(ConfigError, match='base, seed 4, was run with another configuration'):
        study.run(a_plan(tmp_path, epochs=3))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'stage': 'tutor'}, "has teacher, distil, but no 'tutor'"),
        ({'methods': {'odd': {'epoch': 1}}}, 'methods.odd: epoch: unknown key'),
        (
            {'methods': {'odd': {'distill': {'losses': {'spell': {}}}}}},
            'methods.odd: weights.distill/spell: missing',
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused_by_name(tmp_path, change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        study.lay_out(dataclasses.replace(a_plan(tmp_path), **change))


def test_no_run_at_a_time_is_refused(tmp_path, trained):
    with pytest.raises(ConfigError, match='jobs: expected at least 1 run at a time, got 0'):
        study.run(a_plan(tmp_path), jobs=0)
    assert not trained


def test_means_and_deviations_are_those_of_the_sample(tmp_path):
    values = [3.0, 5.0, 10.0]
    rows = [
        study_table.Row('a', seed, 2, 'x', dict.fromkeys(study_table.SHOWN.values(), value))
        for seed, value in enumerate(values)
    ]
    told = study_table.text(rows, 'Car')
    assert f'| a | 3 | {np.mean(values):.2f} ± {np.std(values, ddof=1):.2f} |' in told
    assert '| a | 1 | 3.00 |' in study_table.text(rows[:1], 'Car')


def test_the_command_shows_table_and_chart(tmp_path, trained, capsys):
    plan = a_plan(tmp_path)
    path = tmp_path / 'study.yaml'
    path.write_text(json.dumps(vars(plan)))
    with pytest.raises(SystemExit):
        cli.main(['study', str(path), '--table-only'])
    assert 'no finished run yet' in capsys.readouterr().err
    cli.main(['study', str(path)])
    assert '| selective | 2 | 14.50 ± 0.71 | 29.00 ± 1.41 |' in capsys.readouterr().out
    assert (tmp_path / 'table.png').stat().st_size > 5000
