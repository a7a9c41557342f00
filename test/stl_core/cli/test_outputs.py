"""Outputs that cannot be written: one line before the work starts, and nothing left behind."""

import argparse
import multiprocessing
import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from stl_core.cli import main
from stl_core.cli.output import OutputFile, OutputFolder

#: Destinations of arguments that name an output. `results` of kitti-ap is an input.
OUTPUT_NAMES = {'out', 'json', 'report'}
#: Commands with a place for the output; their inputs do not exist, so that an output that is
#: checked after the inputs would be missed.
FILE_OUTPUTS = {
    'evaluate --json': ['evaluate', 'no.safetensors', 'no', '--json'],
    'predict --json': ['predict', 'no.safetensors', 'no', '--json'],
    'kitti-ap --json': ['kitti-ap', 'no', 'no', '--json'],
    'nuscenes-eval --json': ['nuscenes-eval', 'no.json', 'no', '--split', 'no', '--json'],
    'nuscenes-predict': ['nuscenes-predict', 'no.safetensors', 'no', '--split', 'no'],
    'fresh-scorer --json': ['fresh-scorer', 'no.yaml', '--json'],
    'export': ['export', 'no.safetensors'],
    'import-weights': ['import-weights', 'monodle', 'no.pth'],
    'show-selection': ['show-selection', 'no.yaml'],
    'train --json': ['train', 'no.yaml', '--json'],
}
FOLDER_OUTPUTS = {
    'evaluate --results': ['evaluate', 'no.safetensors', 'no', '--results'],
    'evaluate --report': ['evaluate', 'no.safetensors', 'no', '--report'],
    'kitti-ap --report': ['kitti-ap', 'no', 'no', '--report'],
    'predict': ['predict', 'no.safetensors', 'no', '--out'],
    'depth-maps': ['depth-maps', 'no'],
    'show-transfer': ['show-transfer', 'no.yaml'],
    'synthesize': ['synthesize', '--frames', '1'],
}


def only_line(capsys, argv):
    """Run a command that must fail with exit code 2; return its only line on stderr."""
    with pytest.raises(SystemExit) as exited:
        main.main([str(each) for each in argv])
    assert exited.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture
def place(tmp_path):
    """A folder with a file and a folder in it; nothing else may appear there."""
    (tmp_path / 'file').write_text('precious')
    (tmp_path / 'folder').mkdir()
    yield tmp_path
    assert sorted(each.name for each in tmp_path.rglob('*')) == ['file', 'folder']
    assert (tmp_path / 'file').read_text() == 'precious'


@pytest.mark.parametrize('name', FILE_OUTPUTS)
def test_a_file_that_cannot_be_written_is_one_line_before_the_work(name, place, capsys):
    argv = FILE_OUTPUTS[name]
    line = only_line(capsys, [*argv, place / 'folder'])
    assert line == f'stl: {place}/folder: this is a folder; expected the path of a file to write'
    line = only_line(capsys, [*argv, place / 'file/deep/out'])
    reason = f'cannot be written, because {place}/file is not a folder'
    assert line == f'stl: {place}/file/deep/out: {reason}'
    assert 'not a regular file' in only_line(capsys, [*argv, '/dev/null'])


@pytest.mark.parametrize('name', FOLDER_OUTPUTS)
def test_a_folder_that_cannot_be_written_is_one_line_before_the_work(name, place, capsys):
    for path in (place / 'file', place / 'file/deep/out'):
        line = only_line(capsys, [*FOLDER_OUTPUTS[name], path])
        reason = f'cannot be written, because {place}/file is not a folder'
        assert line == f'stl: {path}: {reason}'


@pytest.mark.skipif(not Path('/proc/self').exists(), reason='/proc exists on Linux only')
@pytest.mark.parametrize('name', [*FILE_OUTPUTS, *FOLDER_OUTPUTS])
def test_a_folder_that_takes_no_files_is_one_line_before_the_work(name, capsys):
    """Nobody, not even root, can create a file in /proc; root passes every check of modes."""
    argv = (FILE_OUTPUTS | FOLDER_OUTPUTS)[name]
    line = only_line(capsys, [*argv, '/proc/new/out'])
    assert line.startswith('stl: /proc/new/out: cannot be written (')


def output_actions():
    """Yield (command, action) of every argument of a command of `stl`."""
    parser = main.make_parser()
    (commands,) = (
        each for each in parser._actions if isinstance(each, argparse._SubParsersAction)
    )
    for command, each in commands.choices.items():
        yield from ((command, action) for action in each._actions)


def test_every_output_of_every_command_is_checked_and_is_tested_here():
    tested = set()
    for command, action in output_actions():
        checked = action.type in (OutputFile, OutputFolder)
        assert checked or action.dest not in OUTPUT_NAMES, f'{command} {action.dest}'
        if checked:
            tested.add(f'{command} --{action.dest}'.removesuffix(' --out'))
    assert tested == set(FILE_OUTPUTS | FOLDER_OUTPUTS)


@pytest.mark.parametrize('part', ['out', 'table'])
def test_outputs_named_by_a_configuration_are_checked_first(part, place, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp('configurations')
    (folder / 'run.yaml').write_text(f'out: {place}/file\n')
    outputs = {'out': f'{place}/folder', 'table': f'{place}/folder/table.csv'}
    outputs[part] = f'{place}/file/{part}'
    lines = [f'{key}: {path}\n' for key, path in outputs.items()]
    (folder / 'study.yaml').write_text(
        f'plan: {folder}/run.yaml\nstage: none\nmethods: {{base: {{}}}}\n{"".join(lines)}'
    )
    assert f'{place}/file is not a folder' in only_line(capsys, ['study', folder / 'study.yaml'])
    assert f'{place}/file is not a folder' in only_line(capsys, ['train', folder / 'run.yaml'])


@pytest.mark.parametrize('part', ['pictures', 'results'])
def test_predict_checks_the_folders_in_its_folder(part, tmp_path, capsys):
    (tmp_path / part).write_text('')
    line = only_line(capsys, ['predict', 'no.safetensors', 'no', '--out', tmp_path])
    assert line == (
        f'stl: {tmp_path / part}: cannot be written, because {tmp_path / part} is not a folder'
    )


@pytest.mark.parametrize(
    ('argv', 'suffix'),
    [
        (['export', 'no.safetensors', 'half.pt'], '.safetensors'),
        (['import-weights', 'monodle', 'no.pth', 'student.pth'], '.safetensors'),
    ],
)
def test_model_files_that_no_command_reads_are_refused(argv, suffix, capsys):
    assert only_line(capsys, argv) == (
        f'stl: {argv[-1]}: expected the path of a file ending in {suffix}'
    )


def kill_first_child():
    while not (children := multiprocessing.active_children()):
        time.sleep(0.01)
    os.kill(children[0].pid, signal.SIGKILL)


def test_a_killed_worker_is_one_line(tmp_path, capsys):
    killer = threading.Thread(target=kill_first_child)
    killer.start()
    argv = ['synthesize', tmp_path / 'data', '--frames', '2', '--workers', '1', '--size', '64x32']
    line = only_line(capsys, argv)
    killer.join()
    assert line.startswith('stl: a worker process was killed (out of memory?)')


def test_a_full_disk_is_one_line(tmp_path, capsys):
    """A limit of 4 kB stands for the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        argv = ['synthesize', tmp_path / 'data', '--frames', '1', '--workers', '0', '--no-lidar']
        line = only_line(capsys, [*argv, '--size', '320x96'])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert '.png: cannot be written (File too large); an earlier one is unchanged' in line
    assert not list(tmp_path.rglob('*.part'))


def test_a_chart_that_is_no_png_is_refused(capsys):
    line = only_line(capsys, ['show-selection', 'no.yaml', 'chart.xyz'])
    assert line == 'stl: chart.xyz: expected the path of a PNG file, ending in .png'
