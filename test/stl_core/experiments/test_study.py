"""Studies: runs of methods and seeds, their table, resuming, Markdown and chart."""

import dataclasses
import json
import logging
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from toy_study import a_plan, a_row

from stl_core.cli import main
from stl_core.data.sources import kitti
from stl_core.evaluation.ap_result import ApResult, ClassAp
from stl_core.evaluation.metric import MetricResults
from stl_core.experiments import run_queue, study, study_config, study_plan, study_table
from stl_core.experiments.report import study_chart, study_text
from stl_core.inference.model_file import ModelFileError
from stl_core.training import resolved_config, stages
from stl_core.training.config_builder import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def test_runs_differ_by_method_and_seed_alone(tmp_path):
    before, runs = study_plan.plan_runs(a_plan(tmp_path))
    assert [run.method for run in before] == ['teacher (stage)']
    assert [(run.method, run.config.seed) for run in runs] == [
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
    assert len({run.config.out for run in runs}) == 4


def test_every_committed_study_can_be_planned(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in sorted((ROOT / 'config/study').glob('*.yaml')):
        before, runs = study_plan.plan_runs(study_config.load_study(path))
        assert before
        # of teachers the digest holds the SHA-256, which plans lack
        teachers = [run.config.distill and run.config.distill.teacher for run in runs]
        digests = [study.config_digest(run.config) for run in runs]
        assert len(set(zip(digests, teachers, strict=True))) == len(runs)


def test_the_study_of_gates_has_four_gates_with_right_and_wrong_depth(monkeypatch):
    monkeypatch.chdir(ROOT)
    grid = study_config.load_study('config/study/dk3d_gates.yaml')
    blocks = study_plan.plan_blocks(grid)
    assert len(blocks) == 5
    for block in blocks:
        wrong = {run.method: run.config.train.augment.wrong_depth for run in block.stages}
        assert [name for name, each in wrong.items() if each == 0.5] == ['teacher_wrong (stage)']
        assert len(wrong) == 3
        for run in block.runs[1:]:
            name, *rest = run.method.split(', ')
            losses = run.config.distill.losses
            assert {each.gate for each in losses.values()} == {name}
            assert losses.keys() == {'feature', 'relation'}
            assert run.config.train.augment.wrong_depth == (0.5 if rest else None)
            teacher = 'teacher_wrong' if rest else 'teacher'
            assert run.config.distill.teacher.endswith(f'/{teacher}/student.safetensors')
        assert len(block.runs) == 1 + 4 * 2


@pytest.mark.parametrize(
    ('name', 'page'), [('monostl', 'distillation'), ('monostl_tries', 'monostl_tries')]
)
def test_the_documented_table_has_the_figures_of_the_committed_runs(name, page, monkeypatch):
    monkeypatch.chdir(ROOT)
    grid = study_config.load_study(f'config/study/{name}.yaml')
    rows = study_table.sort_rows(study_table.read_table(Path(grid.table)), tuple(grid.methods))
    lines = study_text.to_markdown(rows, grid.judged).splitlines()
    table = [line for line in lines if line.startswith('|') and '(stage)' not in line]
    assert len(table) > 5
    assert set(table) <= set(Path(f'docs/{page}.md').read_text().splitlines())


def test_the_committed_study_has_every_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    grid = study_config.load_study('config/study/monostl.yaml')
    before, runs = study_plan.plan_runs(grid)
    rows = {row[:2] for row in study_table.read_table(Path(grid.table))}
    assert rows == {(run.method, run.config.seed) for run in before + runs}


def test_the_digest_depends_on_given_options_and_not_on_empty_ones(tmp_path):
    config = study_plan.plan_runs(a_plan(tmp_path))[1][0].config
    assert study.config_digest(
        dataclasses.replace(config, out='elsewhere')
    ) == study.config_digest(config)
    assert study.config_digest(dataclasses.replace(config, seed=9)) != study.config_digest(config)

    def digest(source):
        train = dataclasses.replace(config.train, sources=(source,))
        return study.config_digest(dataclasses.replace(config, train=train))

    expected = digest(kitti.KittiFolders('images', 'calib'))
    assert digest(kitti.KittiFolders('images', 'calib', split='few.txt')) != expected
    assert digest(kitti.KittiFolders('images', 'calib', velodyne='scans')) != expected
    option = [('option', str, '')]  # an option that a later version may add
    later = dataclasses.make_dataclass('Later', option, bases=(kitti.KittiFolders,), frozen=True)
    assert digest(later('images', 'calib')) == expected
    assert digest(later('images', 'calib', option='on')) != expected


def test_a_study_may_change_its_plan(tmp_path):
    plan = a_plan(tmp_path)
    changed = dataclasses.replace(plan, overrides=('stages.teacher.epochs=7', 'batch_size=3'))
    (before, *runs), (teacher, *others) = (
        [run.config for part in study_plan.plan_runs(each) for run in part]
        for each in (plan, changed)
    )
    assert (before.epochs, teacher.epochs) == (2, 7)
    assert [each.epochs for each in others] == [2] * 4
    assert [each.batch_size for each in (teacher, *others)] == [3] * 5
    assert runs == [dataclasses.replace(each, batch_size=runs[0].batch_size) for each in others]
    with pytest.raises(ConfigError, match="'epochs': expected key=value"):
        study_plan.plan_runs(dataclasses.replace(plan, overrides=('epochs',)))


def test_a_finished_run_is_a_row_and_is_not_run_again(tmp_path, trained, monkeypatch):
    plan = a_plan(tmp_path)
    study.run_study(plan)
    assert len(trained) == 5
    rows = study_table.read_table(tmp_path / 'table.csv')
    assert [row.metrics['3d/strict/moderate'] for row in rows] == [444, 4, 14, 5, 15]
    study.run_study(plan)
    assert len(trained) == 5


def test_a_stopped_study_resumes(tmp_path, trained, monkeypatch):
    plan = a_plan(tmp_path)
    study.run_study(plan)
    whole = (tmp_path / 'table.csv').read_text()
    lines = whole.splitlines(True)
    (tmp_path / 'table.csv').write_text(''.join(lines[:3]) + lines[3][:9])  # an incomplete line
    trained.clear()
    study.run_study(plan)
    assert trained[0] == 'x/teacher'  # cheap: a finished stage is not trained again
    assert len(trained[1:]) == 3
    assert (tmp_path / 'table.csv').read_text() == whole


def test_a_row_of_another_configuration_is_refused(tmp_path, trained):
    study.run_study(a_plan(tmp_path))
    with pytest.raises(ConfigError, match='base, seed 4, was run with another configuration'):
        study.run_study(a_plan(tmp_path, epochs=3))


def test_a_run_is_a_row_as_soon_as_it_is_finished(tmp_path, trained, monkeypatch):
    plan, table = a_plan(tmp_path), tmp_path / 'table.csv'

    def last_first(make, configs, jobs, threads):
        """Finish in reverse order, and fail at the first run."""
        for index in range(len(configs) - 1, 0, -1):
            assert len(study_table.read_table(table)) == len(configs) - index
            yield index, run_queue._run(configs[index])
        raise ConfigError('the first run failed')

    monkeypatch.setattr(run_queue, 'map_as_completed', last_first)
    with pytest.raises(ConfigError, match='the first run failed'):
        study.run_study(plan, num_jobs=2)
    rows = study_table.read_table(table)
    assert [row[:2] for row in rows[1:]] == [('selective', 5), ('base', 5), ('selective', 4)]
    assert [row.metrics['3d/strict/moderate'] for row in rows[1:]] == [15, 5, 14]
    text = study_text.to_markdown(study_table.sort_rows(rows, tuple(plan.methods)), 'Car')
    assert text.index('teacher') < text.index('| base') < text.index('| selective')


def test_a_parallel_run_logs_to_its_folder_while_it_runs(tmp_path, monkeypatch):
    log = tmp_path / 'runs/base/4/log.txt'

    def fit(resolved):
        print('a word')
        run_queue.log.info('%d epochs', resolved.config.epochs)
        assert re.fullmatch(r'a word\n\S+ \S+ 2 epochs\n', log.read_text())
        raise ConfigError('too late')

    monkeypatch.setattr(stages, 'run_stage', fit)
    (run, *_) = study_plan.plan_runs(a_plan(tmp_path))[1]
    handlers = logging.getLogger().handlers[:]
    with pytest.raises(ConfigError, match='too late'):
        run_queue._run_in_process(run.config)
    assert log.read_text().endswith('ConfigError: too late\n')
    assert logging.getLogger().handlers == handlers


def test_a_table_is_written_by_one_study_at_a_time(tmp_path, trained):
    table = tmp_path / 'table.csv'
    with study_table.table_lock(table):
        with pytest.raises(ConfigError, match='another study is writing this table'):
            study.run_study(a_plan(tmp_path))
    assert not trained
    study.run_study(a_plan(tmp_path))
    assert sorted(path.name for path in tmp_path.glob('table*')) == ['table.csv']


def drop_last(table):
    table.write_text(''.join(table.read_text().splitlines(True)[:-1]))


def test_earlier_stages_must_reproduce_their_rows_of_the_table(tmp_path, trained, monkeypatch):
    plan, table = a_plan(tmp_path), tmp_path / 'table.csv'
    study.run_study(plan)
    drop_last(table)
    whole = table.read_text()
    message = (
        r'table.csv: teacher \(stage\), seed 444.* another teacher than x/teacher; choose another'
    )
    table.write_text(whole.replace('444.0000', '443.0000'))
    with pytest.raises(ConfigError, match=message):
        study.run_study(plan)
    digest = study_table.read_table(table)[0].config
    table.write_text(whole.replace(digest, 'another'))
    with pytest.raises(ConfigError, match=message):
        study.run_study(plan)
    header, *lines = whole.splitlines()
    one_more = [f'{header},toy/recall', *(f'{line},1.0000' for line in lines)]
    one_less = [line.rpartition(',')[0] for line in (header, *lines)]
    for other_columns in (one_more, one_less):
        table.write_text('\n'.join(other_columns) + '\n')
        with pytest.raises(ConfigError, match=message):
            study.run_study(plan)
    table.write_text(whole)
    study.run_study(plan)
    assert len(study_table.read_table(table)) == 5


def test_the_published_protocol_has_columns_and_older_tables_stay_valid(
    tmp_path, trained, monkeypatch
):
    """A table without the columns is read, continued and compared; new rows have them."""
    plan, table = a_plan(tmp_path), tmp_path / 'table.csv'
    study.run_study(plan)
    drop_last(table)
    without_published = stages.run_stage

    def fit(resolved):
        results = without_published(resolved)
        above = {
            key: tuple(value + 0.5 for value in values)
            for key, values in results.ap['Car'].values.items()
        }
        published = MetricResults({'kitti': ApResult({'Car': ClassAp(above)})})
        return dataclasses.replace(results, published=published)

    monkeypatch.setattr(stages, 'run_stage', fit)
    study.run_study(plan)
    rows = study_table.read_table(table)
    assert len(rows) == 5
    columns = [name for name in rows[-1].metrics if name.startswith('published/')]
    assert 'published/3d/strict/moderate' in columns
    assert not any(name in rows[0].metrics for name in columns)
    assert rows[-1].metrics['published/3d/loose/moderate'] == 30.5
    sorted_rows = study_table.sort_rows(rows, tuple(plan.methods))
    lines = study_text.to_markdown(sorted_rows, 'Car').splitlines()
    assert 'protocol ours' in lines[0]
    assert lines[2].endswith('| published 3D at 0.7 | published 3D at 0.5 | reads | teacher |')
    # a seed of this method has no published figures
    assert lines[-1].endswith('|  |  |  | teacher: sees a depth map in place of the image |')
    only_new = study_text.to_markdown([row for row in rows if columns[0] in row.metrics], 'Car')
    assert '| 15.50 | 30.50 |' in only_new.splitlines()[-1]


def test_a_complete_table_does_not_need_the_files_of_its_stages(
    tmp_path, trained, monkeypatch, caplog
):
    plan, table = a_plan(tmp_path), tmp_path / 'table.csv'
    study.run_study(plan)
    trained.clear()

    def with_file_digests(config):
        if config.distill:
            raise ModelFileError('x/teacher/student.safetensors: no such file')
        return config

    monkeypatch.setattr(resolved_config, 'with_file_digests', with_file_digests)
    with caplog.at_level(logging.INFO):
        study.run_study(plan)
    assert 'has every run; files that they were made from are missing: x/teacher' in caplog.text
    assert not trained
    drop_last(table)
    with pytest.raises(ModelFileError, match='no such file'):
        study.run_study(plan)
    assert trained == ['x/teacher']  # training it is replaced here, and writes no file


def test_an_unknown_class_and_repeated_seeds_are_refused(tmp_path):
    path = tmp_path / 'study.yaml'
    path.write_text(json.dumps(vars(a_plan(tmp_path))))
    assert study_config.load_study(path, ('judged=Cyclist',)).judged == 'Cyclist'
    with pytest.raises(ConfigError, match=r"judged: 'Truck' .* Car, Pedestrian, Cyclist"):
        study_config.load_study(path, ('judged=Truck',))
    with pytest.raises(ConfigError, match='seeds: expected each once'):
        study_config.load_study(path, ('seeds=[1, 1]',))


def test_a_table_of_another_class_is_refused(tmp_path, trained, capsys):
    plan, table = a_plan(tmp_path), tmp_path / 'table.csv'
    study.run_study(plan)
    path = tmp_path / 'study.yaml'
    path.write_text(json.dumps(vars(plan)))
    for command in (['study', str(path)], ['study', str(path), '--table-only']):
        with pytest.raises(SystemExit):
            main.main([*command, 'judged=Cyclist'])
        assert 'holds the figures of Car' in capsys.readouterr().err
    # tables of older versions lack the column of the class
    older = '\n'.join(re.sub(r',(judged|Car),', ',', row) for row in table.open())
    table.write_text(older.replace('\n\n', '\n'))
    assert 'judged' not in table.read_text()
    assert {row.judged for row in study_table.read_table(table)} == {'Car'}
    study.run_study(plan)
    study_table.append_row(table, study_table.read_table(table)[0]._replace(seed=9))
    assert len(study_table.read_table(table)) == 6


def test_a_method_may_disable_distillation_by_null(tmp_path):
    plan = a_plan(tmp_path)
    methods = {'none': None, 'null': {'distill': None}, 'no loss': {'distill': {'losses': None}}}
    _, runs = study_plan.plan_runs(dataclasses.replace(plan, methods=methods))
    assert all(run.config.distill is None for run in runs)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'stage': 'tutor'}, "has teacher, distil, but no 'tutor'"),
        ({'methods': {'odd': {'epoch': 1}}}, 'methods.odd: epoch: unknown key'),
        (
            {'methods': {'odd': {'distill': {'losses': {'spell': {}}}}}},
            'methods.odd: distill.losses.spell: unknown loss',
        ),
        (
            {'methods': {'odd': {'distill': {'losses': {'feature': {}}}}}},
            'methods.odd: weights.distill/feature: missing',
        ),
    ],
)
def test_errors_of_a_study_name_the_stage_or_method(tmp_path, change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        study_plan.plan_runs(dataclasses.replace(a_plan(tmp_path), **change))


def test_less_than_one_job_is_refused(tmp_path, trained):
    with pytest.raises(ConfigError, match='jobs: expected at least 1 run at a time, got 0'):
        study.run_study(a_plan(tmp_path), num_jobs=0)
    assert not trained


def test_means_and_deviations_are_those_of_the_sample(tmp_path):
    values = [3.0, 5.0, 10.0]
    rows = [a_row('a', seed, value) for seed, value in enumerate(values)]
    text = study_text.to_markdown(rows, 'Car')
    assert f'| a | 3 | {np.mean(values):.2f} ± {np.std(values, ddof=1):.2f} |' in text
    assert '| a | 1 | 3.00 |' in study_text.to_markdown(rows[:1], 'Car')
    assert '| 3D at 0.5 | 3D at 0.25 |' in study_text.to_markdown(rows, 'Cyclist')


def test_methods_are_compared_seed_by_seed(tmp_path):
    base = {1: 3.0, 2: 5.0, 3: 10.0}
    rows = [a_row('teacher (stage)', 1, 60.0), *(a_row('base', *each) for each in base.items())]
    rows += [a_row('b', 3, 12.0), a_row('b', 1, 4.0), a_row('b', 8, 70.0), a_row('c', 9, 1.0)]
    differences = study_table.paired_differences(rows)
    assert {name: values.tolist() for name, values in differences.items()} == {'b': [2.0, 1.0]}
    lines = study_text.to_markdown(rows, 'Car').splitlines()
    assert lines[2].endswith('| 3D at 0.5 vs base |')
    assert [row.rsplit('|', 2)[1].strip() for row in lines[4:]] == ['', '', '+1.50 ± 0.71', '']
    study_chart.plot_study(rows, 'Car', tmp_path / 'some.png')
    study_chart.plot_study(rows[:1], 'Car', tmp_path / 'stages.png')


def test_a_run_is_not_counted_twice(tmp_path):
    table = tmp_path / 'table.csv'
    study_table.append_row(table, a_row('a', 1, 3.0))
    with pytest.raises(ConfigError, match='a, seed 1, is there already'):
        study_table.append_row(table, a_row('a', 1, 4.0))
    assert len(study_table.read_table(table)) == 1
    table.write_text(table.read_text() + table.read_text().splitlines(True)[1])
    with pytest.raises(ConfigError, match='a, seed 1, is there already'):
        study_table.read_table(table)


def test_the_command_shows_table_and_chart(tmp_path, trained, capsys):
    plan = a_plan(tmp_path)
    path = tmp_path / 'study.yaml'
    path.write_text(json.dumps(vars(plan)))
    with pytest.raises(SystemExit):
        main.main(['study', str(path), '--table-only'])
    assert 'no finished run yet' in capsys.readouterr().err
    main.main(['study', str(path)])
    assert '| selective | 2 | 14.50 ± 0.71 | 29.00 ± 1.41 |' in capsys.readouterr().out
    assert (tmp_path / 'table.png').stat().st_size > 5000


def test_sigterm_ends_a_study_like_ctrl_c(tmp_path, monkeypatch, capsys):
    def run(config, jobs):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(study, 'run_study', run)
    monkeypatch.chdir(ROOT)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        main.main(['study', 'config/study/monostl.yaml', f'table={tmp_path}/table.csv'])
    assert stop.value.code == 130
    assert 'run the same command again to resume' in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize('content', [b'notes without a line end', b'\xff\xfe\x00', b'a,b\n1,2\n'])
def test_a_foreign_file_is_not_taken_for_an_empty_table(content, tmp_path):
    (tmp_path / 'table.csv').write_bytes(content)
    with pytest.raises(ConfigError, match=r'table\.csv: not .*the table of a study'):
        study_table.read_table(tmp_path / 'table.csv')
    assert (tmp_path / 'table.csv').read_bytes() == content
