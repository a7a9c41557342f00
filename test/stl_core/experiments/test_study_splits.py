"""Splits learn, choose and judge of a study, and tuning with equal budgets."""

import dataclasses
import json
import re

import pytest
import yaml
from kitti_scenes import make_scenes
from toy_study import a_plan_of_teachers, a_row, replace_training

from stl_core.cli import main
from stl_core.experiments import study, study_config, study_plan, study_table, study_tuning
from stl_core.training.config_builder import ConfigError


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Nine frames: learn 0 to 3, choose 4 and 5, judge 6 to 8; and two overlapping splits."""
    root = make_scenes(tmp_path_factory.mktemp('scenes'), 9)
    for name, ids in (
        ('learn', range(4)),
        ('choose', (4, 5)),
        ('judge', (6, 7, 8)),
        ('learnt', (3, 4, 5)),
        ('chosen', (5, 6, 7)),
    ):
        (root / f'{name}.txt').write_text('\n'.join(f'{i:06d}' for i in ids))
    return root


def a_study(scenes, tmp_path, **changes):
    """Replicates 5 and 6 are judged, 4 is tuned; the plan has the drawn frames."""
    splits = {'choose': f'{scenes}/choose.txt', 'judge': f'{scenes}/judge.txt'}
    tuning = study_config.TuningConfig((4,))
    changes = {'replicates': (5, 6), 'tuning': tuning, **splits, **changes}
    plan = a_plan_of_teachers(tmp_path, **changes)
    data = yaml.safe_load((tmp_path / 'plan.yaml').read_text())
    folders = {
        'image_2': f'{scenes}/image_2',
        'calib': f'{scenes}/calib',
        'label_2': f'{scenes}/label_2',
    }
    data['train'] = {'sources': [folders], 'split': f'{scenes}/learn.txt'}
    data['val'] = {'sources': [folders]}
    (tmp_path / 'plan.yaml').write_text(yaml.safe_dump(data, sort_keys=False))
    return plan


def best_at_weight_one(config):
    """AP is best if the weights of the distillation losses are 1 together, on either split."""
    weights = [each for key, each in config.weights.items() if key.startswith('distill/')]
    return 20.0 + config.seed - 4 * abs(sum(weights) - 1.0)


@pytest.fixture
def trained(monkeypatch):
    return replace_training(monkeypatch, best_at_weight_one)


def test_tuning_runs_are_on_choose_and_all_others_on_judge(scenes, tmp_path):
    plan = a_study(scenes, tmp_path)
    (tuning,) = study_plan.plan_tuning(plan)
    assert [run.method for run in tuning.runs] == [
        *(f'{name} @ {share}' for name in ('DK3D', 'relation') for share in ('0.25', '0.5', '1'))
    ]
    weights = [run.config.weights['distill/feature'] for run in tuning.runs[:3]]
    assert weights == [0.5, 1.0, 2.0]
    assert tuning.runs[0].config.out == f'{tmp_path}/runs/4/tuning/DK3D @ 0.25'
    assert tuning.runs[0].config.start == f'{tmp_path}/runs/4/stages/base/student.safetensors'
    parts = {'choose': tuning.stages + tuning.runs}
    parts['judge'] = [
        run for block in study_plan.plan_blocks(plan) for part in block for run in part
    ]
    for split, runs in parts.items():
        assert {run.split for run in runs} == {split}
        assert {run.config.val.split for run in runs} == {f'{scenes}/{split}.txt'}
    other = {f'{scenes}/learn.txt'}
    assert {run.config.train.split for runs in parts.values() for run in runs} == other


def test_stages_of_a_replicate_that_is_tuned_and_judged_have_one_row(scenes, tmp_path, trained):
    plan = a_study(scenes, tmp_path, replicates=(4,))
    study.run_study(plan)
    rows = study_table.read_table(tmp_path / 'table.csv')
    assert {row.split for row in rows if '(stage)' in row.method} == {'judge'}
    assert len(rows) == 3 + 6 + 3


def test_the_best_share_of_every_method_is_judged(scenes, tmp_path, trained):
    plan, table = a_study(scenes, tmp_path), tmp_path / 'table.csv'
    study.run_study(plan)
    rows = study_table.read_table(table)
    assert table.read_text().startswith('method,seed,epochs,config,judged,split,reads,teacher,3d/')
    assert [row.split for row in rows] == ['choose'] * 9 + ['judge'] * 12
    assert study.chosen_candidates(plan, rows) == {'DK3D': '0.5', 'relation': '0.25'}
    figures = {row.method: row.metrics['3d/strict/moderate'] for row in rows if row.seed == 5}
    assert figures['DK3D'] == 25.0  # weight 2 x 0.5
    assert figures['relation'] == 24.0  # weight 3 x 0.25
    trained.clear()
    study.run_study(plan)
    assert not trained
    # another choice would judge other runs: the rows that are there are refused
    best = next(line for line in table.read_text().splitlines() if line.startswith('DK3D @ 0.5'))
    table.write_text(table.read_text().replace(best, re.sub(r'48\.0{4}', '1.0000', best)))
    with pytest.raises(ConfigError, match='DK3D, seed 5, was run with another configuration'):
        study.run_study(plan)


def test_unequal_budgets_are_refused_before_a_row_is_judged(scenes, tmp_path, trained):
    plan, table = a_study(scenes, tmp_path), tmp_path / 'table.csv'
    study_table.append_row(table, a_row('DK3D @ 0.75', 4, 30.0, 'choose'))
    with pytest.raises(ConfigError, match='DK3D has 4 tuning rows, relation 3; no row is judged'):
        study.run_study(plan)
    rows = study_table.read_table(table)
    assert [row.split for row in rows] == ['choose'] * 10
    # without tuning in the study, rows of the table count as well
    without = {'control': [], 'DK3D': [], 'relation': []}
    with pytest.raises(ConfigError, match='control has 0 tuning rows, DK3D 4'):
        study_tuning.check_equal_budgets(table, rows, without)
    study_tuning.check_equal_budgets(table, [], without)


def test_a_method_may_list_its_own_candidates(scenes, tmp_path):
    plan = a_study(scenes, tmp_path)
    rates = {f'lr {lr}': {'optim': {'lr': lr}} for lr in (1e-3, 2e-3, 4e-3)}
    methods = {**plan.methods, 'control': {'stage': 'control', 'tuning': rates}}
    tuned = dataclasses.replace(plan, methods=methods)
    (block,) = study_plan.plan_tuning(tuned)
    assert [run.method for run in block.runs[:3]] == [f'control @ {label}' for label in rates]
    assert [run.config.optim.lr for run in block.runs[:3]] == [1e-3, 2e-3, 4e-3]
    judged = study_plan.plan_blocks(tuned, {'control': 'lr 0.004'})[0].runs
    assert judged[0].config.optim.lr == 4e-3
    assert judged[0].method == 'control'
    del rates['lr 0.001']
    with pytest.raises(ConfigError, match='tuning: control has 2 candidates, DK3D 3'):
        study_plan.plan_tuning(tuned)
    odd = dataclasses.replace(plan, methods={'control': {'tuning': 3}})
    with pytest.raises(
        ConfigError, match=r'methods\.control\.tuning: expected keys and values, got 3'
    ):
        study_plan.plan_tuning(odd)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'choose': 'chosen'}, r'choose: .*chosen.txt: 2 common ids with judge: .* as 000006'),
        ({'choose': 'learnt'}, r'choose: .*: 1 common ids with the training frames of teacher'),
        ({'judge': 'learn'}, r'judge: .*: 4 common ids with the training frames of teacher'),
        ({'judge': 'choose'}, r'choose: .*: 2 common ids with judge'),
    ],
)
def test_splits_with_common_frames_are_refused(scenes, tmp_path, trained, changes, message):
    files = {key: f'{scenes}/{name}.txt' for key, name in changes.items()}
    with pytest.raises(ConfigError, match=message):
        study.run_study(a_study(scenes, tmp_path, **files))
    assert not trained


def test_equal_ids_of_different_data_sets_are_different_frames(scenes, tmp_path, trained):
    other = make_scenes(tmp_path / 'other', 9)
    plan = a_study(scenes, tmp_path, judge=f'{scenes}/learn.txt')
    data = yaml.safe_load((tmp_path / 'plan.yaml').read_text())
    data['train']['sources'] = [{'image_2': f'{other}/image_2', 'calib': f'{other}/calib'}]
    (tmp_path / 'plan.yaml').write_text(yaml.safe_dump(data, sort_keys=False))
    study.run_study(plan)
    assert len(study_table.read_table(tmp_path / 'table.csv')) == 21


def test_no_epoch_is_chosen_by_the_frames_that_judge_it(scenes, tmp_path):
    plan = a_study(scenes, tmp_path, overrides=('stages.given.eval_every=1',))
    message = r'given \(stage\): eval_every: 1 would choose the best epoch by the frames'
    with pytest.raises(ConfigError, match=message):
        study_plan.plan_runs(plan)


def test_rows_with_and_without_splits_do_not_share_a_table(scenes, tmp_path, trained, capsys):
    with_splits = a_study(scenes, tmp_path)
    without = dataclasses.replace(with_splits, choose='', judge='', tuning=None)
    study.run_study(without)
    with pytest.raises(ConfigError, match='was evaluated without a split, but the study has cho'):
        study.run_study(with_splits)
    (tmp_path / 'table.csv').unlink()
    study.run_study(with_splits)
    with pytest.raises(ConfigError, match="on the split 'choose', but the study has no splits"):
        study.run_study(without)
    table = tmp_path / 'table.csv'
    table.write_text(table.read_text().replace(',choose,', ',chose,'))
    with pytest.raises(ConfigError, match=r"table\.csv:2: not a row of a study .*split 'chose'"):
        study_table.read_table(table)


def test_the_command_prints_choices_and_judged_rows(scenes, tmp_path, trained, capsys):
    plan = a_study(scenes, tmp_path, primary=(('DK3D', 'control'),))
    path = tmp_path / 'study.yaml'
    path.write_text(json.dumps({**dataclasses.asdict(plan), 'seeds': None}))
    main.main(['study', str(path)])
    tuning, text = capsys.readouterr().out.split('Car, AP40')
    assert '| DK3D | 0.25 | 1 | 44.00 |  |' in tuning
    assert '| DK3D | 0.5 | 1 | 48.00 | chosen |' in tuning
    assert '| relation | 0.25 | 1 | 46.00 | chosen |' in tuning
    assert '@' not in text
    assert '| DK3D | 2 | 25.50 ± 0.71 |' in text
    assert '| base (stage) | 2 |' in text  # replicate 4 is tuned only
    assert 'DK3D is above control by 8.00' in text
