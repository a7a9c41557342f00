"""A data set format that is not KITTI's, run through the `stl` commands."""

import json

import numpy as np
import pytest
import toy_source
from kitti_scenes import make_scenes
from small_run import assert_equal_weights, weights_of

from stl_core.cli import main
from stl_core.data import depth_maps
from stl_core.data.frame_source import read_images
from stl_core.data.sources import kitti

SMALL = (
    'detector.options={backbone: mobilenetv4_conv_small, neck: light, head_width: 8}',
    'input={width_px: 160, height_px: 64}',
    'epochs=2',
    'batch_size=2',
    'workers=0',
    'device=cpu',
)
IDS = [f'drive-{sample}-{camera}' for sample in (0, 1) for camera in ('left', 'right')]


def train_on(path, source, *overrides):
    path.with_suffix('.yaml').write_text(f'train: &frames\n  sources: [{source}]\nval: *frames\n')
    main.main(['train', str(path.with_suffix('.yaml')), *SMALL, f'out={path}', *overrides])


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Return a folder with four frames in both formats and a model trained on each format."""
    root = tmp_path_factory.mktemp('world')
    folders = kitti.folders_below(make_scenes(root / 'kitti', frames=4), labelled=True)
    (root / 'toy').mkdir()
    toy_source.write_drive(root / 'toy/drive.npz', read_images(kitti.KittiSource(folders)))
    names = ', '.join(f'{name}: {root}/kitti/{name}' for name in ('image_2', 'calib', 'label_2'))
    train_on(root / 'kitti_run', f'{{{names}}}')
    train_on(root / 'toy_run', f'{{format: toy, folder: {root}/toy}}')
    return root


def model_path(world):
    return str(world / 'toy_run/student.safetensors')


def error_line(capsys, *arguments):
    with pytest.raises(SystemExit) as exited:
        main.main([str(each) for each in arguments])
    assert exited.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_training_on_the_same_frames_in_another_format_gives_the_same_weights(world):
    assert_equal_weights(weights_of(world / 'toy_run'), weights_of(world / 'kitti_run'))
    names = sorted(path.stem for path in (world / 'toy_run/results').glob('*.txt'))
    assert names == IDS
    for number, name in enumerate(names):
        toy = (world / f'toy_run/results/{name}.txt').read_bytes()
        assert toy == (world / f'kitti_run/results/{number:06d}.txt').read_bytes()


def test_workers_load_another_format(world, tmp_path):
    source = f'{{format: toy, folder: {world}/toy}}'
    train_on(tmp_path / 'run', source, 'workers=1')
    assert_equal_weights(weights_of(tmp_path / 'run'), weights_of(world / 'toy_run'))


def test_a_run_on_another_format_resumes_and_rejects_other_data(world, capsys):
    source = f'{{format: toy, folder: {world}/toy}}'
    before = weights_of(world / 'toy_run')
    train_on(world / 'toy_run', source)
    assert_equal_weights(weights_of(world / 'toy_run'), before)
    (world / 'other').mkdir()
    drive = dict(np.load(world / 'toy/drive.npz'))
    (world / 'other/drive.npz').write_bytes((world / 'toy/drive.npz').read_bytes())
    moved = f'{{format: toy, folder: {world}/other}}'
    train_on(world / 'toy_run', moved)  # the same data elsewhere
    assert_equal_weights(weights_of(world / 'toy_run'), before)
    drive['boxes'][..., 10] += 0.5  # x of the labelled centres
    np.savez(world / 'other/drive.npz', **drive)
    config, other = world / 'toy_run.yaml', f'train.sources=[{moved}]'
    line = error_line(capsys, 'train', config, *SMALL, f'out={world}/toy_run', other)
    assert 'made with other data: train labels' in line


def test_evaluate_gives_the_ap_of_the_same_frames(world, tmp_path):
    main.main(
        ['evaluate', model_path(world), str(world / 'toy'), '--format', 'toy', '--device', 'cpu']
        + ['--json', str(tmp_path / 'toy.json'), '--report', str(tmp_path / 'report')]
    )
    main.main(
        ['evaluate', model_path(world), str(world / 'kitti'), '--device', 'cpu']
        + ['--json', str(tmp_path / 'kitti.json')]
    )
    figures = json.loads((tmp_path / 'toy.json').read_text())
    assert figures == json.loads((tmp_path / 'kitti.json').read_text())
    metrics = json.loads((world / 'toy_run/metrics.json').read_text())
    assert metrics == {**figures['ap'], **{key: figures[key] for key in ('published', 'counts')}}
    assert (tmp_path / 'report/figures.json').is_file()


def test_predict_writes_a_picture_and_a_result_per_camera(world, tmp_path):
    (tmp_path / 'ids.txt').write_text('drive-1')
    main.main(
        ['predict', model_path(world), str(world / 'toy'), '--format', 'toy', '--device', 'cpu']
        + ['--split', str(tmp_path / 'ids.txt'), '--out', str(tmp_path)]
    )
    for folder in ('pictures', 'results'):
        assert sorted(path.stem for path in (tmp_path / folder).glob('[!.]*')) == IDS[2:]
    for name in IDS[2:]:
        expected = (world / f'toy_run/results/{name}.txt').read_bytes()
        assert (tmp_path / f'results/{name}.txt').read_bytes() == expected


def test_errors_name_the_known_formats_and_the_missing_parts(world, tmp_path, capsys):
    argv = ('evaluate', model_path(world), world / 'toy')
    assert "'toi' (choose from" in error_line(capsys, *argv, '--format', 'toi')
    assert 'toy/image_2: no such file' in error_line(capsys, *argv)
    config = world / 'toy_run.yaml'
    line = error_line(capsys, 'train', config, 'train.sources=[{format: toi}]')
    assert "train.sources[0].format: 'toi' is unknown; known: kitti, nuscenes, toy" in line
    line = error_line(capsys, 'train', config, 'train.sources=[{format: toy, root: x}]')
    assert 'train.sources[0].root: unknown key; known: folder, format' in line
    teacher = ('input={width_px: 160, height_px: 64, depth: {virtual_focal_px: 0}}',)
    options = ('detector.options.virtual_focal_px=0', f'out={tmp_path}')
    line = error_line(capsys, 'train', config, *SMALL, *teacher, *options)
    assert 'drive.npz[pixels][0, 0]: no depth of this frame; expected' in line
    line = error_line(capsys, 'depth-maps', world / 'toy', tmp_path / 'out', '--format', 'toy')
    assert 'drive.npz[points_m][0, 0]: no such scan' in line


def test_depth_maps_completes_the_points_of_another_format(world, tmp_path):
    drive = dict(np.load(world / 'toy/drive.npz'))
    across = np.random.default_rng(0).uniform((-10, -2), (10, 2), (20000, 2))
    points = np.column_stack([across, np.full(20000, 12.0)])
    (tmp_path / 'toy').mkdir()
    np.savez(tmp_path / 'toy/drive.npz', points_m=np.tile(points, (2, 2, 1, 1)), **drive)
    argv = ['depth-maps', str(tmp_path / 'toy'), str(tmp_path / 'out'), '--format', 'toy']
    main.main([*argv, '--workers', '0'])
    assert sorted(path.stem for path in (tmp_path / 'out').iterdir()) == IDS
    depth_m = depth_maps.read_depth(tmp_path / f'out/{IDS[0]}.png')
    assert depth_m.shape == (96, 320)
    assert set(depth_m[40:60, 100:200].ravel()) == {12.0}
