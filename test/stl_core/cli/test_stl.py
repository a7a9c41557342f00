"""The `stl` commands of the README: train, evaluate, kitti-ap, predict, inspect, errors."""

import json
import re

import pytest
from kitti_scenes import make_scenes

from stl_core.cli import main

SMALL = (
    'detector.options={backbone: mobilenetv4_conv_small, neck: light, head_width: 8}',
    'input={width_px: 160, height_px: 64}',
    'epochs=2',
    'batch_size=2',
    'workers=0',
    'device=cpu',
)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Return a folder with four frames, a configuration and a model trained on the frames."""
    root = make_scenes(tmp_path_factory.mktemp('world') / 'training', frames=4)
    folders = ', '.join(f'{name}: {root / name}' for name in ('image_2', 'calib', 'label_2'))
    path = root.parent / 'config.yaml'
    path.write_text(f'train: &frames\n  sources: [{{{folders}}}]\nval: *frames\n')
    main.main(['train', str(path), *SMALL, f'out={root.parent / "run"}'])
    return root.parent


def model_path(world):
    return str(world / 'run/student.safetensors')


def error_line(capsys, *arguments):
    """Run a command that must fail with exit code 2; return the last line of stderr."""
    with pytest.raises(SystemExit) as exited:
        main.main([str(each) for each in arguments])
    assert exited.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_overrides_are_accepted_after_options(world, tmp_path, capsys):
    argv = ('train', str(world / 'config.yaml'), '--json', str(tmp_path / 'ap.json'))
    assert 'epochs: expected at least 1' in error_line(capsys, *argv, 'epochs=0')
    assert 'unrecognized arguments: --epochs=3' in error_line(capsys, *argv, '--epochs=3')
    assert 'unrecognized arguments: x=1' in error_line(capsys, 'inspect', model_path(world), 'x=1')


def test_evaluate_prints_and_writes_the_ap_of_the_training(world, tmp_path, capsys):
    main.main(
        ['evaluate', model_path(world), str(world / 'training'), '--device', 'cpu']
        + ['--json', str(tmp_path / 'a.json'), '--results', str(tmp_path / 'results')]
    )
    printed = capsys.readouterr().out
    assert 'Car         3d      AP40' in printed
    assert re.search('^Car: (at score|no true positive)', printed, re.M)
    metrics = json.loads((tmp_path / 'a.json').read_text())
    trained = json.loads((world / 'run/metrics.json').read_text())
    assert {
        **metrics['ap'],
        'published': metrics['published'],
        'counts': metrics['counts'],
    } == trained
    main.main(
        ['kitti-ap', str(world / 'training/label_2'), str(tmp_path / 'results')]
        + ['--json', str(tmp_path / 'b.json')]
    )
    from_files = json.loads((tmp_path / 'b.json').read_text())
    actual, expected = (
        each['Car']['bbox']['AP40']['strict'] for each in (from_files, metrics['ap'])
    )
    assert actual == pytest.approx(expected, abs=0.5)


def test_the_evaluation_report_covers_the_sigmas_of_the_model(world, tmp_path, capsys):
    argv = ['evaluate', model_path(world), str(world / 'training'), '--device', 'cpu', '--report']
    main.main([*argv, str(tmp_path / 'report')])
    figures = json.loads((tmp_path / 'report/figures.json').read_text())
    trained = json.loads((world / 'run/metrics.json').read_text())
    as_detected = figures['oracle']['as detected']
    assert as_detected == {name: trained[name] for name in as_detected}
    matched = figures['depth_error']['Car'][-1]['count']
    assert matched == figures['sigma'].get('Car', {'count': 0})['count']
    assert (tmp_path / 'report/sigma_coverage.png').is_file() == (matched > 0)
    printed = capsys.readouterr().out
    assert 'report: ' in printed
    assert 'calibration' not in printed
    assert ('sigma_coverage is left out' in printed) == (matched == 0)


def test_predict_writes_pictures_and_results(world, tmp_path):
    main.main(['predict', model_path(world), str(world / 'training'), '--out', str(tmp_path)])
    assert len(list((tmp_path / 'pictures').glob('*.png'))) == 4
    assert len(list((tmp_path / 'results').glob('*.txt'))) == 4


def test_files_of_another_run_are_an_error_or_cleared(world, tmp_path, capsys):
    """Both by predict and by evaluate, for result files and pictures; labels and notes stay."""
    for folder in ('results', 'pictures'):
        (tmp_path / folder).mkdir()
    results = tmp_path / 'results'
    label = (world / 'training/label_2/000000.txt').read_text()
    scored = label.replace('\n', ' 0.5\n')
    named = (('000077', scored), ('000078', label), ('other', scored), ('000079', ''), ('log', ''))
    for name, text in named:
        (results / f'{name}.txt').write_text(text)
    (tmp_path / 'pictures/000077.png').write_bytes(b'')
    model, training = model_path(world), world / 'training'
    line = f'{results}: holds 3 result files that this run does not write (000077, 000079, other)'
    predict = ('predict', model, training, '--out', tmp_path, '--device', 'cpu')
    evaluate = ('evaluate', model, training, '--results', results, '--device', 'cpu')
    assert line in error_line(capsys, *predict)
    assert line in error_line(capsys, *evaluate)
    assert not (results / '000000.txt').exists()
    main.main([*map(str, evaluate), '--clear'])
    written = [f'{i:06d}.txt' for i in range(4)]
    assert sorted(path.name for path in results.iterdir()) == [*written, '000078.txt', 'log.txt']
    assert 'pictures: holds 1 pictures' in error_line(capsys, *predict)
    main.main([*map(str, predict), '--clear'])
    assert sorted(path.stem for path in (tmp_path / 'pictures').iterdir()) == [
        path.removesuffix('.txt') for path in written
    ]
    main.main([str(each) for each in predict])  # the same frames again: nothing is mixed


def test_kitti_ap_rejects_label_files_as_results(world, tmp_path, capsys):
    for path in (world / 'training/label_2').iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace('\n', ' 0.5\n'))
    line = error_line(capsys, 'kitti-ap', tmp_path, world / 'training/label_2')
    assert 'label_2/000000.txt:1: expected 16 columns of a result, the last its score' in line


def test_an_invalid_detector_is_a_one_line_error(world, tmp_path, capsys):
    argv = ('train', world / 'config.yaml', *SMALL, f'out={tmp_path}')
    line = error_line(capsys, *argv, 'detector.options.neck=lite')
    assert line == "stl: detector.options: neck 'lite': unknown; known: dlaup, light"
    line = error_line(capsys, *argv, 'detector.options.backbone=dla3')
    assert line.startswith("stl: detector.options: backbone 'dla3': not a timm model; similar")
    start = f'start={model_path(world)}'
    line = error_line(capsys, *argv, start, 'detector.options.head_width=16')
    assert line.startswith(f'stl: start: {model_path(world)}: weights do not fit detector')
    assert re.search(r': heads\S+ is \(8,.*\) in the file, \(16,.*\) in the detector$', line)


def test_the_json_folder_is_created_if_it_can_be(world, tmp_path, capsys):
    argv = ('train', world / 'config.yaml', *SMALL, f'out={world}/run')
    (tmp_path / 'file').write_text('')
    line = error_line(capsys, *argv, '--json', tmp_path / 'file/x.json')
    assert 'file/x.json: cannot be written' in line
    main.main([*map(str, argv), '--json', str(tmp_path / 'new/x.json')])
    assert (tmp_path / 'new/x.json').is_file()


def test_an_empty_split_is_an_error(world, tmp_path, capsys):
    (tmp_path / 'val.txt').write_text('')
    argv = ('evaluate', model_path(world), world / 'training', '--split', tmp_path / 'val.txt')
    assert 'val.txt: no frame id in this file' in error_line(capsys, *argv)


def test_inspect_prints_the_header(world, capsys):
    main.main(['inspect', model_path(world)])
    assert json.loads(capsys.readouterr().out)['input']['width_px'] == 160


def test_invalid_input_is_one_line_and_exit_code_2(world, tmp_path, capsys):
    training = world / 'training'
    assert 'none.yaml: no such file' in error_line(capsys, 'train', 'none.yaml')
    assert 'a: unknown key' in error_line(capsys, 'train', world / 'config.yaml', 'a=1')
    assert 'no such file; expected a model file' in error_line(
        capsys, 'evaluate', tmp_path / 'x.safetensors', training
    )
    assert 'image_2: no such file' in error_line(capsys, 'evaluate', model_path(world), tmp_path)
    assert 'no result file' in error_line(capsys, 'kitti-ap', training / 'label_2', tmp_path)
    line = error_line(capsys, 'train', world / 'config.yaml', *SMALL, 'seed=1', f'out={world}/run')
    assert 'made with another seed' in line


@pytest.mark.parametrize('workers', [0, 1])
def test_a_broken_frame_stops_training_with_the_name_of_the_file(tmp_path, capsys, workers):
    root = make_scenes(tmp_path / 'training', frames=3)
    folders = ', '.join(f'{name}: {root / name}' for name in ('image_2', 'calib', 'label_2'))
    config = tmp_path / 'config.yaml'
    config.write_text(f'train: &frames\n  sources: [{{{folders}}}]\nval: *frames\n')
    run = ('train', config, *SMALL, f'workers={workers}', f'out={tmp_path / "run"}')
    (root / 'image_2/000001.png').write_bytes(b'x')
    assert error_line(capsys, *run).endswith('000001.png: not a readable PNG or JPEG image')
    (root / 'label_2/000002.txt').write_text('Car 1 2')
    assert '000002.txt:1: expected 15 columns' in error_line(capsys, *run)
    assert not (tmp_path / 'run').exists()
