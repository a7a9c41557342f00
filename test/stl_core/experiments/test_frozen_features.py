"""`stl fresh-scorer` on a small distillation with CPL and ASB: features, table, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_stages import make_scenes_with_depth, plan

from stl_core.cli import main
from stl_core.experiments.inspection import fresh_scorer, frozen_features
from stl_core.experiments.inspection.trained_distiller import load_distiller
from stl_core.training import stages
from stl_core.training.config_builder import ConfigError
from stl_core.training.resolved_config import resolve_config
from stl_core.visualization import charts

pytestmark = pytest.mark.usefixtures('one_thread')
CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A plan with teacher, base, distil (CPL and ASB) and control, all trained for an epoch."""
    out = tmp_path_factory.mktemp('runs')
    data = plan(make_scenes_with_depth(tmp_path_factory.mktemp('kitti'), 6), out, epochs=1)
    distil = data['stages']['distil']
    distil['distill'] = {
        'teacher': distil['distill']['teacher'],
        'losses': {'cpl': {}, 'asb': {'width': 8}},
    }
    distil['weights'] = {'distill/cpl': 1.0, 'distill/asb': 0.05}
    data['stages']['control'] = {'out': f'{out}/control', 'start': distil['start']}
    path = out / 'plan.yaml'
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    built = stages.load_stages(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, 'plot_loss_curves', lambda table, path: None)
        for config in built.values():
            stages.run_stage(resolve_config(config))
    return path, built


def test_the_frozen_features_are_those_of_teacher_control_and_student(trained):
    _, built = trained
    made = frozen_features.freeze_features(built['distil'], built['control'], 3, '', CPU)
    assert list(made.networks) == [
        *('control', 'student', 'control, projected', 'student, projected')
    ]
    assert made.control_of['student, projected'] == 'control, projected'
    assert made.teacher.shape[0] == 3
    assert all(each.shape == made.teacher.shape for each in made.networks.values())
    model = load_distiller(resolve_config(built['distil']), Path(built['distil'].out) / 'last.pt')
    weight = model.transfers['cpl'].projection.weight.detach()
    for name in ('control', 'student'):
        projected = torch.nn.functional.conv2d(made.networks[name], weight)
        torch.testing.assert_close(made.networks[f'{name}, projected'], projected)
    assert not torch.equal(made.networks['control'], made.networks['student'])
    objects = made.cells_weight.sum((-1, -2))
    torch.testing.assert_close(objects, objects.round())


def test_the_command_prints_a_table_and_writes_json(trained, tmp_path, capsys, monkeypatch):
    path, _ = trained
    quick = fresh_scorer.ScorerTraining(steps=4, frames=2, width=4, seeds=1)
    monkeypatch.setattr(fresh_scorer, 'ScorerTraining', lambda: quick)
    argv = ['fresh-scorer', str(path), '--device', 'cpu', '--json', str(tmp_path / 'rows.json')]
    main.main(argv)
    rows = json.loads((tmp_path / 'rows.json').read_text())
    assert [each['name'] for each in rows][:2] == ['control', 'student']
    printed = capsys.readouterr().out
    for each in rows:
        assert 0 <= each['interval'][0] <= each['accuracy'] <= each['interval'][1] <= 1
        assert f'| {each["name"]} | {each["accuracy"]:.3f} (' in printed
    assert np.isclose(rows[1]['below_control'], rows[0]['accuracy'] - rows[1]['accuracy'])


def test_levels_upstream_and_runs_that_are_not_finished_are_refused(trained, tmp_path, capsys):
    path, built = trained
    with pytest.raises(ConfigError, match="level 'c8' of the student lies upstream"):
        frozen_features.freeze_features(built['distil'], built['control'], 3, 'c8', CPU)
    with pytest.raises(ConfigError, match='base: not a distillation'):
        frozen_features.freeze_features(built['base'], built['control'], 3, '', CPU)
    for wrong, message in (
        (['--control', 'nothing'], "stage 'nothing': unknown; known: teacher, base"),
        (['--frames', '2'], '--frames: expected at least 4, got 2'),
        ([f'stages.control.out={tmp_path}'], 'student.safetensors'),
    ):
        with pytest.raises(SystemExit) as ended:
            main.main(['fresh-scorer', str(path), *wrong, '--device', 'cpu'])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
