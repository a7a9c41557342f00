"""`stl show-transfer` on a small distillation: features, attention, the scorer's curve."""

import dataclasses
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from small_stages import make_scenes_with_depth, plan

from stl_core.cli import main
from stl_core.experiments.inspection import transfer_pictures
from stl_core.experiments.inspection.transfer_pictures import AFTER, BEFORE
from stl_core.tensors.reductions import SINGLE_PART
from stl_core.training import stages
from stl_core.training.config_builder import ConfigError
from stl_core.visualization import charts

pytestmark = pytest.mark.usefixtures('one_thread')
LOSSES = ('vda', 'tsrd', 'cpl', 'asb')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Return the file of a plan with a privileged teacher and all losses of DK3D."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp('runs')
    data = plan(make_scenes_with_depth(tmp_path_factory.mktemp('kitti'), 4), out, epochs=1)
    base, teacher, distil = (data['stages'][name] for name in ('base', 'teacher', 'distil'))
    teacher |= {'input': {'given_depth': 'objects'}, 'start': f'{out}/base/student.safetensors'}
    distil['distill']['losses'] = {name: {} for name in LOSSES}
    distil['weights'] = {f'distill/{name}': 0.1 for name in LOSSES}
    data['stages'] = {'base': base, 'teacher': teacher, 'distil': distil}
    data['batch_size'] = 4
    path = out / 'plan.yaml'
    path.write_text(json.dumps(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, 'plot_loss_curves', lambda table, path: None)
        main.main(['train', str(path)])
    return path


@pytest.fixture(scope='module')
def inspected(trained):
    return transfer_pictures._inspect_frame(stages.load_stages(trained)['distil'], '')


def test_the_command_writes_one_picture_of_each_kind(trained, tmp_path, capsys):
    main.main(['show-transfer', str(trained), str(tmp_path / 'out')])
    printed = capsys.readouterr().out.split()
    names = ('features.png', 'tsrd.png', 'vda.png', 'scorer.png')
    assert printed == [str(tmp_path / 'out' / name) for name in names]
    for path in printed:
        assert cv2.imread(path).std() > 5


def test_frames_and_levels_that_do_not_exist_are_refused(trained, tmp_path, capsys):
    config = stages.load_stages(trained)['base']
    with pytest.raises(ConfigError, match='base: not a distillation'):
        transfer_pictures.draw_transfers(config, tmp_path)
    capsys.readouterr()
    for option, message in (
        (['--frame', 'nowhere'], '--frame nowhere: no such val frame; the first is 000000'),
        (['--level', 'nowhere'], "--level: 'nowhere' is unknown; the teacher has "),
    ):
        with pytest.raises(SystemExit):
            main.main(['show-transfer', str(trained), str(tmp_path), *option])
        assert message in capsys.readouterr().err


def test_a_picture_of_a_loss_that_the_run_lacks_is_not_drawn(
    trained, inspected, tmp_path, monkeypatch
):
    config = stages.load_stages(trained)['distil']
    distill = dataclasses.replace(config.distill, losses={'tsrd': config.distill.losses['tsrd']})
    models = {
        title: SimpleNamespace(
            transfers={'tsrd': model.transfers['tsrd']},
            student=model.student,
            teacher=model.teacher,
        )
        for title, model in inspected.models.items()
    }
    fewer = dataclasses.replace(inspected, models=models)
    monkeypatch.setattr(transfer_pictures, '_inspect_frame', lambda *_: fewer)
    results = transfer_pictures.draw_transfers(
        dataclasses.replace(config, distill=distill), tmp_path
    )
    assert results == {
        'features.png': '',
        'tsrd.png': '',
        'vda.png': 'the run has no vda',
        'scorer.png': 'the run has no asb',
    }
    assert {each.name for each in tmp_path.iterdir()} == {'features.png', 'tsrd.png'}


def test_the_students_are_the_start_model_and_the_distilled_one(trained, inspected, monkeypatch):
    """The teacher is the same on both sides, and colours are those of its map."""
    maps = {}
    monkeypatch.setattr(
        transfer_pictures, 'feature_picture', lambda image, given, reference: maps.update(given)
    )
    transfer_pictures.features_of_frame(inspected, '')
    before, after, teacher = maps[BEFORE], maps[AFTER], maps['teacher']
    views = inspected.views
    assert np.array_equal(teacher, views[BEFORE].teacher.levels['neck'].map[0].numpy())
    assert np.array_equal(teacher, views[AFTER].teacher.levels['neck'].map[0].numpy())
    assert not np.array_equal(before, after)
    base = trained.parent / 'base/student.safetensors'
    assert stages.load_stages(trained)['distil'].start == str(base)


def test_attention_is_that_of_the_losses(inspected, monkeypatch):
    drawn = {}

    def record(image, boxes, attentions):
        drawn.update(attentions)
        drawn['boxes'] = boxes

    monkeypatch.setattr(transfer_pictures, 'object_attention_picture', record)
    transfer_pictures.relations_of_frame(inspected)
    view = inspected.after
    transfer = inspected.models[AFTER].transfers['tsrd']
    teacher, student = transfer.relations(view, SINGLE_PART)
    count = int(view.targets.valid.sum())
    assert count > 1
    order = view.targets.depth_m[0, view.targets.valid[0]].argsort()
    for title, relations in (('teacher', teacher), (AFTER, student)):
        expected = relations.log_attention[0, :count, :count].exp()[order][:, order]
        np.testing.assert_allclose(drawn[title], expected.detach().numpy(), atol=1e-6)
        np.testing.assert_allclose(drawn[title].sum(1), 1, atol=1e-5)
    assert drawn['boxes'].shape == (count, 4)


def test_attention_to_depth_is_that_of_the_largest_object(inspected, monkeypatch):
    drawn = {}

    def record(image, attentions, query_px):
        drawn.update(attentions, query=query_px)

    monkeypatch.setattr(transfer_pictures, 'cell_attention_picture', record)
    transfer_pictures.association_of_frame(inspected)
    x, y = drawn.pop('query')
    view = inspected.after
    inside = [
        left <= x <= right and top <= y <= bottom
        for left, top, right, bottom in view.targets.box_px[0, view.targets.valid[0]].tolist()
    ]
    assert any(inside)
    for attention in drawn.values():
        assert attention.shape == (4, 10)
        assert 0 <= attention.sum() <= 1 + 1e-5
    # the teacher attends to cells with given depth alone
    given = torch.nn.functional.max_pool2d(view.given_depth_m[None], 16)[0, 0] > 0
    assert drawn['teacher'][~given.numpy()].max(initial=0) < 1e-6
