"""Outputs of the bag tools that cannot be written: one line before any input is read."""

from pathlib import Path

import pytest

from mono3d_ros.bag_evaluation import evaluate_bag
from mono3d_ros.bags import bag_to_kitti, kitti_to_bag, synthesize_bag

#: Command and its arguments before the output; the inputs do not exist.
COMMANDS = {
    'evaluate_bag': (evaluate_bag.main, ['no']),
    'bag_to_kitti': (bag_to_kitti.main, ['no']),
    'kitti_to_bag': (kitti_to_bag.main, ['no']),
    'synthesize_bag': (synthesize_bag.main, ['--frames', '1']),
}


def only_line(capsys, name, *argv):
    """Run a command that must fail with exit code 2; return its only line on stderr."""
    command, arguments = COMMANDS[name]
    assert command([*arguments, *map(str, argv)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize('name', COMMANDS)
def test_an_output_that_cannot_be_written_is_one_line_before_the_work(name, tmp_path, capsys):
    (tmp_path / 'file').write_text('precious')
    line = only_line(capsys, name, tmp_path / 'file')
    reason = 'exists already and is not overwritten; choose a new folder'
    assert line == f'{name}: {tmp_path}/file: {reason}'
    line = only_line(capsys, name, tmp_path / 'file/deep/out')
    reason = f'cannot be written, because {tmp_path}/file is not a folder'
    assert line == f'{name}: {tmp_path}/file/deep/out: {reason}'
    assert [each.name for each in tmp_path.iterdir()] == ['file']


@pytest.mark.skipif(not Path('/proc/self').exists(), reason='/proc exists on Linux only')
@pytest.mark.parametrize('name', COMMANDS)
def test_a_folder_that_takes_no_files_is_one_line_before_the_work(name, capsys):
    line = only_line(capsys, name, '/proc/new/out')
    assert line.startswith(f'{name}: /proc/new/out: cannot be written (')


def test_the_recording_of_rerun_is_checked_first(tmp_path, capsys):
    argv = (tmp_path / 'out', '--rerun', tmp_path)
    line = only_line(capsys, 'evaluate_bag', *argv)
    assert (
        line == f'evaluate_bag: {tmp_path}: this is a folder; expected the path of a file to write'
    )
