"""A run counts what it teaches, warns of what it leaves out, and refuses to teach nothing."""

import dataclasses
import json
import logging

import pytest
from kitti_scenes import make_scenes
from label_sets import label_line, write_set

from stl_core.cli import main
from stl_core.data.frame_source import DataError
from stl_core.data.sources import kitti
from stl_core.training import config, trainer
from stl_core.training.resolved_config import resolve_config
from stl_core.training.run import object_counts, setup
from stl_core.training.train_step import TrainError

GOOD = [f'{label_line()}\n', f'{label_line(center_m=(-1.0, 0.5, 16.0))}\n']


def run_config(root, out='out', classes=('Car',), canvas=(160, 64), val=None, **limits):
    """Return the configuration of a small run on a data set, and on another for validation."""
    sources = [
        {k: str(each / k) for k in ('image_2', 'calib', 'label_2')} for each in (root, val or root)
    ]
    options = {'backbone': 'mobilenetv4_conv_small', 'neck': 'light', 'head_width': 8}
    return config.build_train_config(
        {
            'out': str(out),
            'classes': list(classes),
            'detector': {
                'options': {**options, 'mean_size_hwl_m': [[1.5, 1.6, 3.9]] * len(classes)}
            },
            'input': {'width_px': canvas[0], 'height_px': canvas[1]},
            'train': {'sources': sources[:1], **limits},
            'val': {'sources': sources[1:]},
            'epochs': 1,
            'batch_size': 2,
            'workers': 0,
            'device': 'cpu',
            'metric': 'mean/3d/AP40/strict/moderate',
            'eval_every': 0,
        }
    )


def check(root, **changes):
    """Run the start of a training and return its report."""
    return setup.load_datasets(resolve_config(run_config(root, **changes)))[-1]


def lines(**fields):
    return [f'{label_line(**fields)}\n', f'{label_line(center_m=(-1.0, 0.5, 16.0), **fields)}\n']


@pytest.mark.parametrize(
    ('texts', 'limits', 'message'),
    [
        (['', ''], {}, r'train\.sources: nothing to teach: no labelled object in 2 frames'),
        (lines(name='car'), {}, r'train\.sources: labels say car, classes say Car: spell them'),
        (lines(name='"car"'), {}, r'labels say car, classes say Car.* 2 labelled objects'),
        (lines(name='Van'), {}, r'to teach: 2 objects left out for their class.*txt:1: Van'),
        (lines(occluded=4), {}, r'objects left out for their occlusion, .*:1: Car, occluded 4'),
        (lines(truncated=25), {}, r'000000\.txt:1: truncated 25; .* is it in percent\? \(2 of 2'),
        (lines(yaw=90.0), {}, r'000000\.txt:1: rotation_y 90; .* is it in degrees\? \(2 of 2'),
        (lines(size=(0, 0, 0), box=(9, 9, 40, 40)), {}, r'txt:1: height width length 0 0 0; '),
        (lines(size=(-1, -1, -1), box=(9, 9, 40, 40)), {}, r'length -1 -1 -1; .*without 3D boxes'),
        (lines(box=(0, 0, 0, 0)), {}, r'2D box 0 0 0 0; .* or labels without 2D boxes'),
        (lines(box=(-1, -1, -1, -1)), {}, r'2D box -1 -1 -1 -1; expected x0 y0 x1 y1'),
        (lines(box=(140, 36, 60, 27)), {}, r'2D box 140 36 60 27; .* x y w h, or'),
        (GOOD, {'max_depth_m': 9.0}, r'2 objects left out for their depth, such as .*Car at 12 m'),
        (GOOD, {'min_height_px': 90.0}, r'left out for their height, .*Car, 2\d\.\d* px high'),
    ],
)  # fmt: skip
def test_a_run_with_nothing_to_teach_is_refused(tmp_path, texts, limits, message):
    root = write_set(tmp_path / 'set', texts)
    with pytest.raises(DataError, match=message):
        check(root, **limits)


def test_the_command_ends_with_one_line_and_code_2(tmp_path, capsys):
    root = write_set(tmp_path / 'set', lines(name='car'))
    plan = tmp_path / 'run.yaml'
    source = {k: str(root / k) for k in ('image_2', 'calib', 'label_2')}
    frames = {'sources': [source]}
    plan.write_text(
        json.dumps({'train': frames, 'val': frames, 'out': str(tmp_path / 'out'), 'device': 'cpu'})
    )
    with pytest.raises(SystemExit) as code:
        main.main(['train', str(plan), 'detector.options.backbone=mobilenetv4_conv_small'])
    assert code.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert 'labels say car, classes say Car' in line
    assert not (tmp_path / 'out').exists()


def test_counts_are_logged_and_written_into_the_folder_of_the_run(tmp_path, caplog):
    root = write_set(tmp_path / 'set', [f'{GOOD[0]}{label_line(name="Van")}\n', GOOD[1]])
    region = 'DontCare -1 -1 -10 1 2 30 40 -1 -1 -1 -1000 -1000 -1000 -10\n'
    with (root / 'label_2' / '000000.txt').open('a') as file:
        file.write(region)
    caplog.set_level(logging.INFO)
    trainer.fit(resolve_config(run_config(root, tmp_path / 'out')))
    assert (
        'train: 2 frames, 3 labelled objects (Car 2, Van 1) and 1 DontCare; 2 of 2 taught (Car 2);'
        ' 1 of other classes'
    ) in caplog.messages
    assert (
        'val: 2 frames, 3 labelled objects (Car 2, Van 1) and 1 DontCare; 2 of 2 counted (Car 2);'
        in caplog.text
    )
    report = json.loads((tmp_path / 'out' / object_counts.COUNTS_FILE).read_text())
    (train,) = report['train']['sources']
    assert (train['frames'], train['objects'], train['used']) == (
        2,
        {'Car': 2, 'DontCare': 1, 'Van': 1},
        {'Car': 2},
    )
    assert train['left_out'] == {**dict.fromkeys(train['left_out'], 0), 'class': 1}
    assert report['train']['warnings'] == report['val']['warnings'] == []


def test_half_left_out_is_no_warning_and_more_is(tmp_path):
    far = f'{label_line(center_m=(0.0, 0.5, 70.0))}\n'
    assert not check(write_set(tmp_path / 'a', [GOOD[0], far]))['train']['warnings']
    (warning,) = check(write_set(tmp_path / 'b', [GOOD[0], far * 2]))['train']['warnings']
    assert warning.startswith('train: 2 of 3 labelled objects of the classes are left out')
    assert '2 objects left out for their depth' in warning
    assert warning.endswith('label_2/000001.txt:1: Car at 70 m')


def test_single_impossible_objects_are_left_out_with_a_warning(tmp_path):
    bad = f'{label_line(size=(0.0, 1.6, 3.9), box=(9, 9, 40, 40))}\n'
    root = write_set(tmp_path / 'set', [GOOD[0] * 2, bad])
    report = check(root)
    (warning,) = report['train']['warnings']
    assert warning == (
        'train: 1 objects have impossible numbers and are left out; first:'
        f' {root}/label_2/000001.txt:1: height width length 0 1.6 3.9; expected metres, more than'
        ' 0; are these labels without 3D boxes?'
    )
    assert report['train']['sources'][0]['left_out']['impossible'] == 1
    assert report['val']['sources'][0]['left_out']['impossible'] == 1


def test_angles_in_degrees_are_an_error_though_small_ones_seem_possible(tmp_path):
    mixed = [f'{label_line(yaw=yaw)}\n' for yaw in (0.0, 1.0, 2.0, 3.0, 45.0)]
    with pytest.raises(DataError, match=r'000004\.txt:1: rotation_y 45; expected radians'):
        check(write_set(tmp_path / 'set', mixed))


def test_a_class_that_no_label_names_is_a_warning(tmp_path):
    root = write_set(tmp_path / 'set', GOOD)
    warnings = check(root, classes=('Car', 'Bus'))['train']['warnings']
    assert warnings == ['train: no labelled object of class Bus to teach; labels have Car']


def test_one_class_in_another_spelling_is_an_error(tmp_path):
    root = write_set(tmp_path / 'set', [*GOOD, *lines(name='pedestrian')])
    with pytest.raises(DataError, match='labels say pedestrian, classes say Pedestrian'):
        check(root, classes=('Car', 'Pedestrian'))


def test_validation_frames_without_an_object_of_the_classes_are_refused(tmp_path):
    root, val = write_set(tmp_path / 'set', GOOD), write_set(tmp_path / 'val', lines(name='Van'))
    with pytest.raises(
        DataError, match=r'val\.sources: nothing to evaluate on: 2 objects left out'
    ):
        check(root, val=val)


def test_sources_are_counted_one_by_one(tmp_path):
    roots = write_set(tmp_path / 'a', GOOD), write_set(tmp_path / 'b', GOOD[:1])
    built = run_config(roots[0])
    sources = tuple(kitti.folders_below(root, labelled=True) for root in roots)
    train, val = (dataclasses.replace(each, sources=sources) for each in (built.train, built.val))
    built = dataclasses.replace(built, train=train, val=val)
    report = setup.load_datasets(resolve_config(built))[-1]
    for role in ('train', 'val'):
        assert [each['source'] for each in report[role]['sources']] == [
            f'{role}.sources[0]',
            f'{role}.sources[1]',
        ]
        assert [each['used'] for each in report[role]['sources']] == [{'Car': 2}, {'Car': 1}]


def test_an_unlabelled_training_source_is_an_error(tmp_path):
    root = write_set(tmp_path / 'set', GOOD)
    built = run_config(root)
    unlabelled = (kitti.folders_below(root, labelled=False),)
    built = dataclasses.replace(built, train=dataclasses.replace(built.train, sources=unlabelled))
    with pytest.raises(DataError, match=r'000000\.png: this image has no labels'):
        setup.load_datasets(resolve_config(built))


@pytest.mark.parametrize(
    ('size', 'message'),
    [
        ((80, 24), r'calib/000000\.txt: the projection .* principal point .*outside the picture'),
        (
            (164, 48),
            r'label_2/00000\d\.txt:1: the 2D box ends at .* outside the picture of 164x48',
        ),
    ],
)
def test_pictures_of_another_size_than_calib_and_labels_are_an_error(tmp_path, size, message):
    places = [(3.0, 0.5, 12.0), (1.0, 0.5, 16.0)]
    texts = [f'{label_line(center_m=place)}\n' for place in places]
    with pytest.raises(DataError, match=message):
        check(write_set(tmp_path / 'set', texts, size=size))


def test_a_canvas_with_one_value_per_channel_is_refused(tmp_path):
    root = write_set(tmp_path / 'set', GOOD[:1])
    with pytest.raises(TrainError, match='a canvas of 32x32 with one image a step is too small'):
        check(root, canvas=(32, 32))


def test_scenes_of_other_tests_have_no_warning(tmp_path):
    report = check(make_scenes(tmp_path / 'scenes'))
    assert not report['train']['warnings'] + report['val']['warnings']


def test_real_frames_have_no_warning(mono3d_data):
    """KITTI's own files, with the limits of its configurations: half or more is taught."""
    report = check(
        mono3d_data / 'training',
        classes=('Car', 'Pedestrian', 'Cyclist'),
        canvas=(1280, 384),
        min_height_px=25.0,
        max_occluded=2,
        max_truncated=0.5,
    )
    (train,) = report['train']['sources']
    assert train['frames'] == 18
    assert train['objects']['Car'] == 55
    assert not report['train']['warnings'] + report['val']['warnings']
