"""Multi-stage runs and distillation: stages, overrides, skipped stages, errors, inspection."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from kitti_scenes import HEIGHT, WIDTH
from safetensors.torch import load_file
from small_detectors import SMALL
from small_run import assert_equal_weights, weights_of
from small_stages import FOLDERS, LOSSES, make_scenes_with_depth, plan

from stl_core.cli import main
from stl_core.data import dataset, depth_maps
from stl_core.data.sources import kitti, kitti_calib
from stl_core.experiments import study, study_config, study_table
from stl_core.experiments.inspection import selection, selection_chart, trained_distiller
from stl_core.inference import model_file, predictor, result_files
from stl_core.preprocessing import DepthSpec, InputSpec
from stl_core.training import checkpoint, model_builder, stages, trainer
from stl_core.training.config_builder import ConfigError
from stl_core.training.resolved_config import resolve_config
from stl_core.visualization import charts

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes_with_depth(tmp_path_factory.mktemp('kitti'), frames=5)


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr(charts, 'plot_loss_curves', lambda *_: None)


@pytest.fixture(scope='module')
def trained(scenes, tmp_path_factory):
    """Return folder and configurations of a multi-stage run with all stages finished."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, 'plot_loss_curves', lambda *_: None)
        out = tmp_path_factory.mktemp('plan')
        built = stages.build_stages(plan(scenes, out))
        for each in built.values():
            stages.run_stage(resolve_config(each))
    return out, built


def test_stages_merge_common_keys_and_overrides():
    built = stages.build_stages(plan(Path('x'), 'runs'))
    assert list(built) == ['teacher', 'base', 'distil']
    teacher, base, distil = built.values()
    assert teacher.input == InputSpec(160, 64, depth=DepthSpec(mean_m=14.0, virtual_focal_px=0.0))
    assert teacher.detector.options.virtual_focal_px == 0.0
    assert teacher.detector.options.head_width == base.detector.options.head_width == 8
    assert base.distill is None
    assert distil.distill.losses['response'].half_sigma_m == 2.0
    assert distil.weights == {**base.weights, **{f'distill/{name}': 1.0 for name in LOSSES}}


def test_a_file_without_stages_is_one_run():
    assert list(stages.build_stages({'epochs': 3})) == ['']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'stages': []}, 'stages: expected a mapping'),
        ({'stages': {'a': 3}}, 'stages.a: expected keys and values, got 3'),
        ({'stages': {'a': {'epoch': 3}}}, 'stages.a: epoch: unknown key; known: '),
        ({'stages': {'a': {}, 'b': {}}}, 'stages.a.out: runs/train is also the out of another'),
        ({'distill': {'teacher': 'x'}}, 'distill.losses: missing'),
        (
            {
                'distill': {'teacher': 'x', 'losses': {'spell': {}}},
                'weights': {'distill/spell': 1},
            },
            'distill.losses.spell: unknown loss; known: asb, cpl, feature, ',
        ),
        (
            {'distill': {'teacher': 'x', 'losses': {'feature': {}}}},
            'weights.distill/feature: missing, but in distill.losses',
        ),
        ({'weights': {'distill/feature': 1.0}}, 'weights.distill/feature: no such loss in'),
    ],
)
def test_errors_name_the_invalid_key(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        stages.build_stages(change)


def test_a_common_override_replaces_values_of_the_stages():
    data = plan(Path('x'), 'runs')
    data['stages']['base'] |= {'epochs': 5, 'optim': {'lr': 0.5}}
    per_stage = ('stages.base.seed=3', 'stages.distil.epochs=7')
    built = stages.build_stages(data, (*per_stage, 'epochs=1', 'optim.lr=0.25', 'seed=2'))
    assert [each.epochs for each in built.values()] == [1, 1, 7]
    assert [each.seed for each in built.values()] == [2, 3, 2]
    assert {each.optim.lr for each in built.values()} == {0.25}
    assert stages.build_stages(data)['base'].epochs == 5  # data is not modified
    single = {**data, 'stages': {'base': data['stages']['base']}}
    assert stages.build_stages(single, ('out=there',))['base'].out == 'there'


@pytest.mark.parametrize(
    'override', ['detector.options.head_width=32', 'detector.options={head_width: 32}']
)
def test_an_override_of_one_stage_merges_with_common_keys(override):
    built = stages.build_stages(plan(Path('x'), 'runs'), (f'stages.base.{override}',))
    options = [each.detector.options for each in built.values()]
    assert [each.head_width for each in options] == [8, 32, 8]
    assert {each.neck for each in options} == {'light'}


def test_an_override_of_a_mapping_replaces_that_of_every_stage():
    data = plan(Path('x'), 'runs')
    built = stages.build_stages(data, ('detector.options={head_width: 32}',))
    options = [each.detector.options for each in built.values()]
    assert {(each.head_width, each.neck) for each in options} == {(32, 'dlaup')}
    assert len({each.virtual_focal_px for each in options}) == 1


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('out=x', 'out: stages cannot share a folder; give stages.teacher.out='),
        ('stages.tutor.seed=1', "'stages.tutor.seed=1': no such stage; known: teacher, base, dis"),
    ],
)
def test_an_override_that_fits_no_stage_is_an_error(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        stages.build_stages(plan(Path('x'), 'runs'), (override,))


def test_an_unknown_stage_is_an_error():
    with pytest.raises(ConfigError, match="stage 'tutor': unknown; known: teacher, base, distil"):
        stages.select_stages(stages.build_stages(plan(Path('x'), 'runs')), ('tutor',))


def test_the_teacher_takes_depth_and_rejects_images(trained, scenes):
    out, built = trained
    teacher = predictor.load_predictor(out / 'teacher/student.safetensors', 'cpu')
    assert teacher.spec.input.depth == DepthSpec(mean_m=14.0, virtual_focal_px=0.0)
    with pytest.raises(ValueError, match=r'depth input: expected an \(H, W\) float32 map, got'):
        teacher([np.zeros((96, 320, 3), np.uint8)], [np.eye(3, 4)])
    frame = dataset.list_frames(built['teacher'].val)[0]
    objects = result_files.predict_frame(teacher, frame).detections.ours
    depth_m = depth_maps.load_frame_depth(frame, WIDTH, HEIGHT)
    (expected,) = teacher([depth_m], [kitti_calib.read_calib(scenes / 'calib/000000.txt').P2])
    assert np.array_equal(objects.center_m, expected.center_m)


def test_distillation_feeds_the_teacher_its_training_input(trained):
    distil = trained[1]['distil']
    model = model_builder.build_model(resolve_config(distil)).eval()
    frames = dataset.FrameDataset(
        distil.val, distil.input, distil.classes, 0, dataset.load_image_and_depth
    )
    batch = dataset.collate([frames[0, 0]], 9)
    known = batch.depth_m > 0
    metres = torch.where(known, (batch.depth_m - 14.0) / DepthSpec().std_m, 0)
    teacher_input = model.teacher_input(batch)
    torch.testing.assert_close(teacher_input.image, torch.stack([metres, known.float()], 1))
    path = distil.distill.teacher
    teacher = model_file.load_detector(path, model_file.read_model_spec(path)).eval()
    with torch.no_grad():
        view = model.make_view(model.student(model.student_input(batch)), batch, 0.0)
        expected = teacher(teacher_input).heads.as_dict()
        torch.testing.assert_close(view.teacher.heads, expected)


def test_the_model_file_of_a_distilled_student_holds_the_student_only(trained):
    out, _ = trained
    base, distilled = (
        load_file(out / f'{name}/student.safetensors') for name in ('base', 'distil')
    )
    assert distilled.keys() == base.keys()
    assert any(not torch.equal(distilled[key], base[key]) for key in base)
    spec = model_file.read_model_spec(out / 'distil/student.safetensors')
    assert spec.provenance['distilled'] == sorted(LOSSES)
    assert spec.input.depth is None


def assert_all_stages_run(data, out):
    """Run all stages; the model file holds the student only, losses are finite and positive."""
    for each in stages.build_stages(data).values():
        stages.run_stage(resolve_config(each))
    base, distilled = (
        load_file(out / f'{name}/student.safetensors') for name in ('base', 'distil')
    )
    assert distilled.keys() == base.keys()
    with (out / 'distil/curves.csv').open() as file:
        (row,) = csv.DictReader(file)
    losses = [float(row[f'distill/{name}']) for name in LOSSES]
    assert np.isfinite(losses).all()
    assert min(losses) > 0


@pytest.mark.parametrize('name', ['monocon', 'monodetr'])
def test_every_detector_can_run_all_stages(name, scenes, tmp_path):
    data = plan(scenes, tmp_path, epochs=1)
    data['detector'] = {'name': name, 'options': SMALL[name] | {'virtual_focal_px': 0.0}}
    assert_all_stages_run(data, tmp_path)


def test_a_teacher_with_another_backbone_is_matched_by_stride(scenes, tmp_path):
    data = plan(scenes, tmp_path, epochs=1)
    other_backbone = {'backbone': 'mobilenetv3_small_050', 'neck': 'dlaup'}
    data['stages']['teacher']['detector'] = {'options': other_backbone}
    assert_all_stages_run(data, tmp_path)
    weights = weights_of(tmp_path / 'distil')
    adapter_outputs = [weights[f'adapters.{level}.2.weight'].shape[0] for level in range(3)]
    review_inputs = [weights[f'review.outward.{level}.0.weight'].shape[0] for level in range(3)]
    model = model_builder.build_model(resolve_config(stages.build_stages(data)['distil']))
    assert adapter_outputs == [each.channels for each in model.teacher.levels[1:]] != review_inputs
    assert review_inputs == [each.channels for each in model.student.levels[1:]]


def test_distillation_does_not_change_the_teacher(trained):
    out, _ = trained
    before = load_file(out / 'teacher/student.safetensors')
    after = {
        name[len('teacher.') :]: value
        for name, value in weights_of(out / 'distil').items()
        if name.startswith('teacher.')
    }
    assert_equal_weights({name: after[name] for name in before}, before)


def test_a_stage_starts_with_the_weights_of_the_start_model(trained):
    out, built = trained
    model = model_builder.build_model(resolve_config(built['distil']))
    assert_equal_weights(
        dict(model.student.state_dict()), load_file(out / 'base/student.safetensors')
    )
    assert model.training
    counters = [each for name, each in model.review.named_buffers() if 'num_batches' in name]
    assert counters
    assert not any(counters)  # the check of the losses left no trace in the norms


def test_a_finished_stage_is_not_trained_again(trained, monkeypatch):
    _, built = trained
    monkeypatch.setattr(trainer, 'fit', lambda _: pytest.fail('trained again'))
    for each in built.values():
        assert stages.run_stage(resolve_config(each)).to_json() == json.loads(
            (Path(each.out) / 'metrics.json').read_text()
        )


def test_a_stage_is_not_finished_for_another_configuration_or_teacher(trained, tmp_path):
    out, built = trained
    resolved = resolve_config(built['distil'])
    distil = resolved.config
    assert checkpoint.is_done(resolved)
    assert not checkpoint.is_done(resolve_config(dataclasses.replace(distil, epochs=3)))
    other = tmp_path / 'other.safetensors'
    model_file.convert_to_half(out / 'teacher/student.safetensors', other)
    moved = dataclasses.replace(
        distil, distill=dataclasses.replace(distil.distill, teacher=str(other), teacher_sha256='')
    )
    assert not checkpoint.is_done(resolve_config(moved))
    with pytest.raises(ConfigError, match=r'distill.teacher: .*other.* has SHA-256'):
        resolve_config(
            dataclasses.replace(
                moved, distill=dataclasses.replace(moved.distill, teacher_sha256='0')
            )
        )


def test_a_run_with_another_start_model_cannot_resume(trained, tmp_path):
    out, built = trained
    start = tmp_path / 'start.safetensors'
    shutil.copy(out / 'base/student.safetensors', start)
    again = dataclasses.replace(
        built['base'], out=str(tmp_path / 'again'), start=str(start), epochs=1
    )
    stages.run_stage(resolve_config(again))
    assert checkpoint.is_done(resolve_config(again))
    model_file.convert_to_half(out / 'base/student.safetensors', start)
    with pytest.raises(checkpoint.CheckpointError, match='made with another start_sha256; choose'):
        stages.run_stage(resolve_config(again))


def test_teacher_and_start_model_can_be_moved(trained, tmp_path):
    out, built = trained
    for name in ('teacher', 'base'):
        shutil.copy(out / name / 'student.safetensors', tmp_path / f'{name}.safetensors')
    distill = dataclasses.replace(
        built['distil'].distill, teacher=str(tmp_path / 'teacher.safetensors')
    )
    moved = dataclasses.replace(
        built['distil'], distill=distill, start=str(tmp_path / 'base.safetensors')
    )
    assert checkpoint.is_done(resolve_config(moved))


def test_a_run_with_another_teacher_cannot_resume(trained, tmp_path):
    out, built = trained
    teacher = tmp_path / 'teacher.safetensors'
    shutil.copy(out / 'teacher/student.safetensors', teacher)
    distill = dataclasses.replace(built['distil'].distill, teacher=str(teacher))
    again = dataclasses.replace(
        built['distil'], out=str(tmp_path / 'again'), distill=distill, epochs=1
    )
    stages.run_stage(resolve_config(again))
    assert checkpoint.is_done(resolve_config(again))
    model_file.convert_to_half(out / 'teacher/student.safetensors', teacher)
    with pytest.raises(checkpoint.CheckpointError, match=r'distill\.teacher_sha256; choose'):
        stages.run_stage(resolve_config(again))


def test_a_stopped_distillation_resumes_bit_for_bit(trained, scenes, monkeypatch):
    out, built = trained
    again = dataclasses.replace(built['distil'], out=f'{out}/again')
    original = trainer.log_and_save

    def stop_after_one(run, metric_logger, epochs_done, row):
        original(run, metric_logger, epochs_done, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, 'log_and_save', stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        stages.run_stage(resolve_config(again))
    monkeypatch.setattr(trainer, 'log_and_save', original)
    stages.run_stage(resolve_config(again))
    assert_equal_weights(weights_of(out / 'again'), weights_of(out / 'distil'))


def test_frames_without_depth_fail_before_training(trained, scenes, tmp_path):
    _, built = trained
    without_depth = kitti.KittiFolders(*(str(scenes / name) for name in FOLDERS[:3]))
    frames = dataclasses.replace(built['teacher'].train, sources=(without_depth,))
    with pytest.raises(kitti.DataError, match=r'000000\.png: no depth of this frame; expected'):
        trainer.fit(
            resolve_config(dataclasses.replace(built['teacher'], out=str(tmp_path), train=frames))
        )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'classes': ('Car',)}, r"has classes \('Car', 'Pedestrian', 'Cyclist'\), the student"),
        ({'input': InputSpec(192, 64)}, 'has width 160, the student 192; both need the same'),
        ({'input': InputSpec(160, 96)}, 'has height 64, the student 96; both need the same'),
    ],
)
def test_a_teacher_with_other_classes_or_canvas_is_an_error(trained, change, message):
    _, built = trained
    if 'classes' in change:
        options = dataclasses.replace(
            built['distil'].detector.options, mean_size_hwl_m=((1.5, 1.6, 3.9),)
        )
        change['detector'] = dataclasses.replace(built['distil'].detector, options=options)
    with pytest.raises(ConfigError, match=message):
        model_builder.build_model(
            resolve_config(dataclasses.replace(built['distil'], start='', **change))
        )


def test_a_loss_that_cannot_compare_the_networks_fails_before_training(tmp_path):
    data = plan(Path('nowhere'), tmp_path)
    options = SMALL['monodetr'] | {'virtual_focal_px': 0.0}
    data['detector'] = {'name': 'monodetr', 'options': options}
    distil = data['stages']['distil']
    distil['distill']['losses'] = {'plain_heads': {}}
    distil['weights'] = {'distill/plain_heads': 1.0}
    built = stages.build_stages(data)
    for name in ('teacher', 'base'):
        spec = resolve_config(built[name]).model_spec
        path = tmp_path / name / 'student.safetensors'
        model_file.save_model(path, model_file.build_detector(spec), spec)
    with pytest.raises(ConfigError, match=r'distill\.losses: plain_heads: needs the head map off'):
        model_builder.build_model(resolve_config(built['distil']))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'name': 'monocon'}, r'response: heads of .*: detector is monodle there'),
        ({'mean_size_hwl_m': ((1, 1, 1),) * 3}, r'response: heads of .*: mean_size_hwl_m is \[\['),
        (
            {'virtual_focal_px': 500.0},
            r'response: .*: virtual_focal_px is 0\.0 there, 500',
        ),
    ],
)
def test_heads_of_another_meaning_are_not_compared(trained, scenes, tmp_path, change, message):
    """Losses on features accept such a teacher, losses on predictions do not."""
    out, _ = trained
    data = plan(scenes, out)
    name, options = change.pop('name', 'monodle'), data['detector']['options']
    distil = data['stages']['distil']
    distil.pop('start')
    distil['detector'] = {'name': name, 'options': options | change}
    with pytest.raises(ConfigError, match=message):
        model_builder.build_model(resolve_config(stages.build_stages(data)['distil']))
    for each in (distil['distill']['losses'], distil['weights']):
        each.pop('response', None), each.pop('distill/response', None)
    model_builder.build_model(resolve_config(stages.build_stages(data)['distil']))


def test_a_start_model_with_heads_of_another_meaning_is_an_error(trained):
    out, built = trained
    options = dataclasses.replace(built['base'].detector.options, virtual_focal_px=500.0)
    detector = dataclasses.replace(built['base'].detector, options=options)
    start = f'{out}/base/student.safetensors'
    with pytest.raises(ConfigError, match=r'start: .* has virtual_focal_px 0\.0, this run 500'):
        model_builder.build_model(
            resolve_config(dataclasses.replace(built['base'], start=start, detector=detector))
        )


def test_a_start_model_with_other_input_channels_is_an_error(trained):
    out, built = trained
    with pytest.raises(ConfigError, match=r'start: .* has channels 2, this run 3'):
        model_builder.build_model(
            resolve_config(
                dataclasses.replace(built['base'], start=f'{out}/teacher/student.safetensors')
            )
        )


def test_the_train_command_runs_all_stages_or_one(trained, scenes, tmp_path, capsys):
    out, _ = trained
    path = tmp_path / 'plan.yaml'
    path.write_text(json.dumps(plan(scenes, out)))
    main.main(['train', str(path), '--json', str(tmp_path / 'ap.json')])
    printed = capsys.readouterr().out
    assert all(f'stage {name}' in printed for name in ('teacher', 'base', 'distil'))
    assert f'curves: {out}/stages.png' in printed
    assert json.loads((tmp_path / 'ap.json').read_text()).keys() == {'teacher', 'base', 'distil'}
    main.main(['train', str(path), '--stage', 'base'])
    assert 'stage teacher' not in capsys.readouterr().out


def test_a_stage_with_another_configuration_is_an_error(trained, scenes, tmp_path, capsys):
    path = tmp_path / 'plan.yaml'
    path.write_text(json.dumps(plan(scenes, trained[0])))
    with pytest.raises(SystemExit):
        main.main(['train', str(path), '--stage', 'base', 'epochs=3'])
    printed = capsys.readouterr().err
    assert 'base/last.pt: made with another epochs; choose another out= or remove it' in printed


@pytest.mark.parametrize('kind', ['depth_2', 'velodyne'])
def test_evaluate_and_predict_feed_a_teacher_with_depth(trained, scenes, tmp_path, capsys, kind):
    out, _ = trained
    root = tmp_path / 'training'
    root.mkdir()
    shutil.copytree(scenes / 'calib', root / 'calib')
    for path in (root / 'calib').iterdir():  # the LiDAR sits in the camera
        path.write_text(f'{path.read_text()}Tr_velo_to_cam: 1 0 0 0 0 1 0 0 0 0 1 0\n')
    for name in ('image_2', 'label_2'):
        (root / name).symlink_to(scenes / name)
    wall = np.array([(x, y, 14, 0) for x in range(-4, 5) for y in range(-2, 3)], np.float32)
    argv = ['evaluate', str(out / 'teacher/student.safetensors'), str(root), '--device', 'cpu']
    with pytest.raises(SystemExit):
        main.main(argv)
    assert '000000.png: no depth of this frame' in capsys.readouterr().err
    (root / kind).mkdir()
    for path in sorted((scenes / 'depth_2').iterdir()):
        if kind == 'depth_2':
            (root / kind / path.name).symlink_to(path)
        else:
            (root / kind / f'{path.stem}.bin').write_bytes(wall.tobytes())
    main.main([*argv, '--json', str(tmp_path / 'new/ap.json')])
    ap = json.loads((tmp_path / 'new/ap.json').read_text())['ap']
    if kind == 'depth_2':
        trained_ap = json.loads((out / 'teacher/metrics.json').read_text())
        assert ap == {name: trained_ap[name] for name in ap}
    main.main(['predict', *argv[1:], '--out', str(tmp_path / 'predicted')])
    assert len(list((tmp_path / 'predicted/results').iterdir())) == 5


def test_the_inspection_has_object_weights_and_affinities(trained, tmp_path):
    _, built = trained
    snapshot = selection.inspect_distillation(built['distil'], 5, 8)
    weights, affinities = snapshot.object_weights, snapshot.affinities
    sigma_m = weights.student_sigma_m
    assert len(sigma_m) == 9  # number of objects in the five frames
    confidence = 1 / (1 + weights.teacher_sigma_m**2)
    assert np.allclose(
        weights.feature_weight, confidence * sigma_m**2 / (0.25 + sigma_m**2), atol=1e-6
    )
    assert np.allclose(weights.relation_weight, confidence, atol=1e-6)
    assert len(affinities.depth_m) == 3
    assert (np.diff(affinities.depth_m) >= 0).all()
    for matrix in (affinities.teacher, affinities.student_before, affinities.student_after):
        assert np.allclose(matrix, matrix.T, atol=1e-6)
        assert np.abs(matrix).max() <= 1 + 1e-5
    assert not np.allclose(affinities.student_before, affinities.student_after)
    selection_chart.plot_snapshot(snapshot, tmp_path / 'chart.png')
    assert (tmp_path / 'chart.png').stat().st_size > 10_000


def test_the_inspection_compares_the_start_model_and_the_distilled_student(trained):
    out, built = trained
    resolved = resolve_config(built['distil'])
    models = [
        trained_distiller.load_distiller(resolved, out / 'distil/last.pt', start=start)
        for start in (True, False)
    ]
    for model, stage in zip(models, ('base', 'distil'), strict=True):
        saved = load_file(out / f'{stage}/student.safetensors')
        assert all(torch.equal(saved[k], each) for k, each in model.student.state_dict().items())


def test_a_checkpoint_of_another_run_cannot_be_inspected(trained, scenes):
    """The plotted weights would be those of the configuration, not of the checkpoint."""
    out, _ = trained
    data = plan(scenes, out)
    data['stages']['distil']['distill']['losses'] |= {'feature': {'half_sigma_m': 50.0}}
    with pytest.raises(ConfigError, match=r'last\.pt: made with another distill\.losses\.f'):
        selection.inspect_distillation(stages.build_stages(data)['distil'], 5, 8)


def test_a_distillation_of_predictions_alone_has_no_affinities(trained, scenes, tmp_path):
    data = plan(scenes, trained[0], epochs=1)
    distil = data['stages']['distil'] | {'out': str(tmp_path / 'predictions')}
    distil['distill']['losses'] = {'response': {}}
    distil['weights'] = {'distill/response': 1.0}
    data['stages']['distil'] = distil
    config = stages.build_stages(data)['distil']
    stages.run_stage(resolve_config(config))
    with pytest.raises(ConfigError, match='not a distillation of features at stride 8'):
        selection.inspect_distillation(config, 5, 8)


def test_a_run_without_teacher_cannot_be_inspected(trained):
    with pytest.raises(ConfigError, match='not a distillation of features at stride 8'):
        selection.inspect_distillation(trained[1]['base'], 5, 8)


def test_parallel_runs_of_a_study_equal_sequential_runs(scenes, trained, tmp_path):
    text = yaml.safe_dump(plan(scenes, trained[0]), sort_keys=False)
    (tmp_path / 'plan.yaml').write_text(text)
    weights = {'weights': {'distill/response': 1.0}}
    methods = {'base': {}, 'response': {'distill': {'losses': {'response': {}}}, **weights}}
    students = []
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        grid = study_config.StudyConfig(
            plan=str(tmp_path / 'plan.yaml'),
            stage='distil',
            methods=methods,
            seeds=(1,),
            out=str(out),
            table=str(out / 'table.csv'),
        )
        study.run_study(grid, jobs)
        students.append([load_file(out / name / '1/student.safetensors') for name in methods])
        # parallel runs may finish in any order
        rows = study_table.read_table(out / 'table.csv')[-2:]
        assert {row.method for row in rows} == {*methods}
    for one, other in zip(*students, strict=True):
        assert_equal_weights(one, other)
    assert 'epochs' in (tmp_path / '2/response/1/log.txt').read_text()
