"""The commands of the README, as a user types them."""

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
    """Four frames, a configuration for them and a student trained on them."""
    root = make_scenes(tmp_path_factory.mktemp('world') / 'training', frames=4)
    folders = ', '.join(f'{name}: {root / name}' for name in ('image_2', 'calib', 'label_2'))
    path = root.parent / 'config.yaml'
    path.write_text(f'train: &frames\n  sources: [{{{folders}}}]\nval: *frames\n')
    main.main(['train', str(path), *SMALL, f'out={root.parent / "run"}'])
    return root.parent


def student(world):
    return str(world / 'run/student.safetensors')


def refused(capsys, *arguments):
    """Run a command that must fail; return the one line it says."""
    with pytest.raises(SystemExit) as stopped:
        main.main([str(each) for each in arguments])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_settings_may_stand_after_options(world, tmp_path, capsys):
    argv = ('train', str(world / 'config.yaml'), '--json', str(tmp_path / 'found.json'))
    assert 'epochs: expected at least 1' in refused(capsys, *argv, 'epochs=0')
    assert 'unrecognized arguments: --epochs=3' in refused(capsys, *argv, '--epochs=3')
    assert 'unrecognized arguments: x=1' in refused(capsys, 'inspect', student(world), 'x=1')


def test_evaluate_prints_and_writes_what_the_training_found(world, tmp_path, capsys):
    main.main(
        ['evaluate', student(world), str(world / 'training'), '--device', 'cpu']
        + ['--json', str(tmp_path / 'a.json'), '--results', str(tmp_path / 'results')]
    )
    printed = capsys.readouterr().out
    assert 'Car         3d      AP40' in printed
    assert 'Car: at score' in printed
    told = json.loads((tmp_path / 'a.json').read_text())
    assert told['ap'] == json.loads((world / 'run/metrics.json').read_text())
    main.main(
        ['kitti-ap', str(world / 'training/label_2'), str(tmp_path / 'results')]
        + ['--json', str(tmp_path / 'b.json')]
    )
    again = json.loads((tmp_path / 'b.json').read_text())
    ours, theirs = (each['Car']['bbox']['AP40']['strict'] for each in (again, told['ap']))
    assert ours == pytest.approx(theirs, abs=0.5)


def test_evaluate_reports_with_the_sigma_of_the_student(world, tmp_path, capsys):
    argv = ['evaluate', student(world), str(world / 'training'), '--device', 'cpu', '--report']
    main.main([*argv, str(tmp_path / 'report')])
    told = json.loads((tmp_path / 'report/figures.json').read_text())
    assert told['oracle']['as detected'] == json.loads((world / 'run/metrics.json').read_text())
    matched = told['depth_error']['Car'][-1]['count']
    assert matched == told['sigma'].get('Car', {'count': 0})['count']
    assert (tmp_path / 'report/sigma_coverage.png').is_file() == (matched > 0)
    printed = capsys.readouterr().out
    assert 'report: ' in printed
    assert 'calibration' not in printed
    assert ('sigma_coverage is left out' in printed) == (matched == 0)


def test_predict_draws_and_writes(world, tmp_path):
    main.main(['predict', student(world), str(world / 'training'), '--out', str(tmp_path)])
    assert len(list((tmp_path / 'pictures').glob('*.png'))) == 4
    assert len(list((tmp_path / 'results').glob('*.txt'))) == 4


def test_results_of_another_student_do_not_stay(world, tmp_path, capsys):
    results = tmp_path / 'results'
    results.mkdir()
    label = (world / 'training/label_2/000000.txt').read_text()
    scored = label.replace('\n', ' 0.5\n')
    for name, text in (('000077', scored), ('000078', label), ('notes', scored), ('000079', '')):
        (results / f'{name}.txt').write_text(text)
    argv = ['predict', student(world), str(world / 'training'), '--out', str(tmp_path)]
    main.main([*argv, '--device', 'cpu'])
    ours = [f'{i:06d}.txt' for i in range(4)]
    assert sorted(path.name for path in results.iterdir()) == [*ours, '000078.txt', 'notes.txt']


def test_labels_are_not_taken_for_results(world, tmp_path, capsys):
    for path in (world / 'training/label_2').iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace('\n', ' 0.5\n'))
    told = refused(capsys, 'kitti-ap', tmp_path, world / 'training/label_2')
    assert 'label_2/000000.txt:1: expected 16 columns of a result, the last its score' in told


def test_a_network_that_cannot_be_is_one_line(world, tmp_path, capsys):
    argv = ('train', world / 'config.yaml', *SMALL, f'out={tmp_path}')
    told = refused(capsys, *argv, 'detector.options.neck=lite')
    assert told == "stl: detector.options: neck 'lite': unknown; known: dlaup, light"
    told = refused(capsys, *argv, 'detector.options.backbone=dla3')
    assert told.startswith("stl: detector.options: backbone 'dla3': not a timm model; similar")
    start = f'start={student(world)}'
    told = refused(capsys, *argv, start, 'detector.options.head_width=16')
    assert told.startswith(f'stl: start: {student(world)}: weights do not fit detector')
    assert re.search(r': heads\S+ is \(8,.*\) in the file, \(16,.*\) in the detector$', told)


def test_a_folder_for_figures_is_made_before_the_work(world, tmp_path, capsys):
    argv = ('train', world / 'config.yaml', *SMALL, f'out={world}/run')
    (tmp_path / 'file').write_text('')
    told = refused(capsys, *argv, '--json', tmp_path / 'file/x.json')
    assert 'file/x.json: no such folder can be made' in told
    main.main([*map(str, argv), '--json', str(tmp_path / 'new/x.json')])
    assert (tmp_path / 'new/x.json').is_file()


def test_a_list_of_no_frames_is_refused(world, tmp_path, capsys):
    (tmp_path / 'val.txt').write_text('')
    argv = ('evaluate', student(world), world / 'training', '--split', tmp_path / 'val.txt')
    assert 'val.txt: no frame id in this file' in refused(capsys, *argv)


def test_inspect_tells_the_header(world, capsys):
    main.main(['inspect', student(world)])
    assert json.loads(capsys.readouterr().out)['input']['width_px'] == 160


def test_what_cannot_work_is_one_line_and_code_2(world, tmp_path, capsys):
    training = world / 'training'
    assert 'none.yaml: no such file' in refused(capsys, 'train', 'none.yaml')
    assert 'a: unknown key' in refused(capsys, 'train', world / 'config.yaml', 'a=1')
    assert 'no such file; expected a student' in refused(
        capsys, 'evaluate', tmp_path / 'x.safetensors', training
    )
    assert 'image_2: no such file' in refused(capsys, 'evaluate', student(world), tmp_path)
    assert 'no result file' in refused(capsys, 'kitti-ap', training / 'label_2', tmp_path)
    told = refused(capsys, 'train', world / 'config.yaml', *SMALL, 'seed=1', f'out={world}/run')
    assert 'made with another seed' in told


@pytest.mark.parametrize('workers', [0, 1])
def test_a_broken_frame_stops_training_with_its_name(tmp_path, capsys, workers):
    root = make_scenes(tmp_path / 'training', frames=3)
    folders = ', '.join(f'{name}: {root / name}' for name in ('image_2', 'calib', 'label_2'))
    config = tmp_path / 'config.yaml'
    config.write_text(f'train: &frames\n  sources: [{{{folders}}}]\nval: *frames\n')
    run = ('train', config, *SMALL, f'workers={workers}', f'out={tmp_path / "run"}')
    (root / 'image_2/000001.png').write_bytes(b'x')
    assert refused(capsys, *run).endswith('000001.png: not a readable PNG or JPEG image')
    (root / 'label_2/000002.txt').write_text('Car 1 2')
    assert '000002.txt:1: expected 15 columns' in refused(capsys, *run)
    assert not (tmp_path / 'run').exists()
