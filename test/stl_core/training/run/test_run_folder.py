"""The folder of a run: damaged files, changed data, killed processes, full disks."""

import json
import multiprocessing
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import safetensors.torch
import torch
import yaml
from kitti_scenes import make_scenes
from run_folder_processes import train_until_loader_is_killed
from small_run import assert_equal_weights, small_config, weights_of, with_dropout
from training_processes import run_until_killed, stateful_config

from stl_core.cli import main
from stl_core.training import checkpoint, trainer
from stl_core.training.resolved_config import resolve_config
from stl_core.training.run import run_files
from stl_core.training.run.journal import JOURNAL_FILE, Position, RunJournal, describe_resume
from stl_core.visualization import charts

pytestmark = pytest.mark.usefixtures('one_thread')
LFS = 'version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n'


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr(charts, 'plot_loss_curves', lambda *_: None)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('kitti'), frames=5)


@pytest.fixture(scope='module')
def finished(scenes, tmp_path_factory):
    """Return the folder of a finished run of two epochs."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp('finished')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, 'plot_loss_curves', lambda *_: None)
        trainer.fit(resolve_config(small_config(scenes, out, epochs=2, eval_every=1)))
    return out


@pytest.fixture
def run(scenes, finished, tmp_path):
    """Return a copy of the finished run, its YAML file and its data, to damage them."""
    shutil.copytree(scenes, tmp_path / 'data')
    out = tmp_path / 'run'
    shutil.copytree(finished, out)
    write_config(tmp_path / 'data', out, tmp_path / 'run.yaml')
    return tmp_path


def write_config(data, out, path):
    frames = {'sources': [{k: str(data / k) for k in ('image_2', 'calib', 'label_2')}]}
    frames['augment'] = {'flip': 0.5, 'colour': 0.3}
    options = {'backbone': 'mobilenetv4_conv_small', 'neck': 'light', 'head_width': 8}
    config = {
        'out': str(out),
        'detector': {'options': options},
        'input': {'width_px': 160, 'height_px': 64},
        **{'train': frames, 'val': frames, 'epochs': 2, 'batch_size': 2, 'workers': 0},
        **{'eval_every': 1, 'device': 'cpu'},
    }
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def train(run, *arguments):
    main.main(['train', str(run / 'run.yaml'), *arguments])


def only_line(capsys, run, *arguments):
    """Train, which must fail with exit code 2; return the last line of stderr."""
    with pytest.raises(SystemExit) as exited:
        train(run, *arguments)
    assert exited.value.code == 2
    error = capsys.readouterr().err
    assert 'Traceback' not in error
    (line,) = [each for each in error.splitlines() if each.startswith('stl: ')]
    return line


def half(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def foreign_checkpoint(path):
    torch.save({'state_dict': {'a': torch.zeros(2)}}, path)


DAMAGES = {
    'half': half,
    'empty': lambda path: path.write_bytes(b''),
    'two bytes': lambda path: path.write_bytes(b'ab'),
    'text': lambda path: path.write_text('Hello, this is no file of a run.\n'),
    'lfs': lambda path: path.write_text(LFS),
    'html': lambda path: path.write_text('<!DOCTYPE html><html><body>404</body></html>'),
    'torch': foreign_checkpoint,
    'list': lambda path: path.write_text('[]'),
    'object': lambda path: path.write_text('{}'),
}


@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize('name', ['last.pt', 'metrics.json', 'done.json', 'student.safetensors'])
def test_a_damaged_file_is_one_line_that_names_it(name, damage, run, capsys):
    path = run / 'run' / name
    DAMAGES[damage](path)
    before = path.read_bytes()
    if name == 'last.pt':  # of a finished run, nothing reads it
        (run / 'run/done.json').unlink()
    line = only_line(capsys, run)
    assert line.startswith(f'stl: {path}: ')
    assert 'remove it' in line
    assert path.read_bytes() == before


@pytest.mark.parametrize('name', ['metrics.json', 'student.safetensors', 'done.json'])
def test_removing_a_damaged_file_restores_it_from_the_checkpoint(name, run, capsys):
    path = run / 'run' / name
    before, weights = path.read_bytes(), weights_of(run / 'run')
    path.unlink()
    train(run)
    if name == 'done.json':  # it holds the paths of the copy
        before, after = (json.loads(each)['record'] for each in (before, path.read_bytes()))
        assert before == after
    elif name == 'metrics.json':
        assert path.read_bytes() == before
    else:
        loaded = [safetensors.torch.load(each) for each in (before, path.read_bytes())]
        assert_equal_weights(*loaded)
    assert_equal_weights(weights, weights_of(run / 'run'))


def test_an_exchanged_model_file_is_not_taken_for_the_result(run, scenes, capsys):
    other = small_config(scenes, run / 'other', epochs=1, seed=3)
    trainer.fit(resolve_config(other))
    shutil.copy(run / 'other/student.safetensors', run / 'run/student.safetensors')
    line = only_line(capsys, run)
    assert 'student.safetensors: not the file that this run wrote; remove it' in line


@pytest.mark.parametrize('text', ['hello\nworld\n', 'epoch,total\nx,1\n', '\x00\x01\n'])
@pytest.mark.parametrize('table', ['curves.csv', 'val.csv'])
def test_a_foreign_table_is_one_line_before_training(table, text, run, capsys):
    (run / 'run/done.json').unlink()
    path = run / 'run' / table
    path.write_text(text)
    assert only_line(capsys, run).startswith(f'stl: {path}: not the table of this run (')
    assert path.read_text() == text


def test_a_table_of_another_version_gets_the_new_columns(run):
    (run / 'run/done.json').unlink()
    table = run / 'run/curves.csv'
    header, first, *_ = table.read_text().splitlines()
    name = header.split(',')[2]
    table.write_text(header.replace(f',{name},', ',old,') + f'\n{first}\n')
    state = torch.load(run / 'run/last.pt', weights_only=True)
    torch.save(state | {'epoch': 1}, run / 'run/last.pt')
    train(run)
    rows = table.read_text().splitlines()
    assert rows[0].split(',')[-1] == name
    assert rows[1] == f'{first},nan'
    assert rows[2].split(',')[2] == 'nan'


@pytest.mark.parametrize('name', ['tensorboard', 'results'])
def test_a_file_in_place_of_a_folder_is_found_before_training(name, run, capsys):
    (run / 'run/done.json').unlink()
    shutil.rmtree(run / 'run' / name, ignore_errors=True)
    (run / 'run' / name).write_text('')
    assert f'run/{name}: cannot be written' in only_line(capsys, run)


def test_results_of_another_run_without_checkpoint_are_not_overwritten(run, capsys):
    (run / 'run/last.pt').unlink()
    line = only_line(capsys, run, 'seed=9')
    assert 'done.json: made with another seed; choose another out=' in line


@pytest.mark.parametrize('content', ['out: [', '- a', '\x00', LFS], ids=str)
def test_a_torn_configuration_is_one_line(content, run, capsys):
    (run / 'run.yaml').write_text(content)
    assert only_line(capsys, run).startswith(f'stl: {run}/run.yaml: ')


def test_a_lost_table_of_evaluations_does_not_cost_the_best_model(run, capsys):
    (run / 'run/done.json').unlink()
    (run / 'run/val.csv').unlink()
    best = (run / 'run/best.pt').read_bytes()
    line = only_line(capsys, run, 'epochs=3', '--extend')
    assert f'val.csv: has no evaluation of {run}/run/best.pt' in line
    assert (run / 'run/best.pt').read_bytes() == best


def test_unfinished_files_of_a_killed_process_are_removed(run):
    (run / 'run/done.json').unlink()
    (run / 'run/best.pt.part').write_bytes(b'half')
    train(run)
    assert not list((run / 'run').glob('*.part'))


def test_a_run_that_is_not_there_is_not_said_to_be_extended(run, caplog):
    with caplog.at_level('INFO'):
        train(run, f'out={run}/new', 'epochs=1', '--extend')
    assert f'{run}/new: no run to extend: it is trained from the start' in caplog.text
    assert not (run / 'new/extensions.json').exists()


# --- the data of a run ---------------------------------------------------------------------------


def change_labels(run):
    path = run / 'data/label_2/000001.txt'
    path.write_text(path.read_text().replace('Car', 'Pedestrian', 1))


def change_calibration(run):
    path = run / 'data/calib/000002.txt'
    path.write_text(path.read_text().replace('180.0', '181.0', 1))


def change_ids(run):
    (run / 'data/image_2/000004.png').rename(run / 'data/image_2/000009.png')
    for folder in ('calib', 'label_2'):
        (run / f'data/{folder}/000004.txt').rename(run / f'data/{folder}/000009.txt')


def change_image(run):
    with (run / 'data/image_2/000000.png').open('ab') as file:
        file.write(b'0')


CHANGES = {
    'train labels, val labels': change_labels,
    'train calibration, val calibration': change_calibration,
    'train ids (5 frames then, 5 now), val ids (5 frames then, 5 now)': change_ids,
    'train files, val files': change_image,
}


@pytest.mark.parametrize('finished_before', [True, False])
@pytest.mark.parametrize('what', CHANGES)
def test_changed_data_are_refused(what, finished_before, run, capsys):
    write_config(run / 'data', run / 'run', run / 'run.yaml')
    if not finished_before:
        (run / 'run/done.json').unlink()
    CHANGES[what](run)
    line = only_line(capsys, run)
    assert f': made with other data: {what}; choose another out=, or give --accept-data' in line
    train(run, '--accept-data')


def test_a_moved_data_set_is_the_same(run, capsys):
    """The fixture has copied the data already; here their times change, too."""
    shutil.copytree(run / 'data', run / 'elsewhere/deep')
    write_config(run / 'elsewhere/deep', run / 'run', run / 'run.yaml')
    before = (run / 'run/student.safetensors').read_bytes()
    train(run)
    (run / 'run/done.json').unlink()
    train(run)
    assert (run / 'run/student.safetensors').read_bytes() == before


def test_a_split_of_other_ids_is_refused(run, capsys):
    """The same path, other content: two frames, then four others."""
    split = run / 'ids.txt'
    split.write_text('000000\n000001\n')
    arguments = ('out=' + str(run / 'split'), f'train.split={split}', 'epochs=1')
    train(run, *arguments)
    split.write_text('000001\n000002\n000003\n000004\n')
    line = only_line(capsys, run, *arguments)
    assert 'done.json: made with other data: train ids (2 frames then, 4 now)' in line


# --- the end of a process ------------------------------------------------------------------------


def start(function, *arguments):
    process = multiprocessing.get_context('spawn').Process(target=function, args=arguments)
    process.start()
    process.join(300)
    return process.exitcode


def test_after_a_kill_the_next_start_reports_lost_steps(scenes, tmp_path, caplog):
    """Three epochs of two steps, killed in the second epoch, before its second step."""
    assert start(run_until_killed, scenes, tmp_path, 3) == -signal.SIGKILL
    journal = RunJournal(tmp_path)
    assert journal.before == Position(2, 1, 2)
    journal.__exit__(KeyError, KeyError(), None)  # an error keeps the position
    with caplog.at_level('INFO'):
        trainer.fit(resolve_config(stateful_config(scenes, tmp_path)), with_dropout)
    lines = [each.message for each in caplog.records if 'resuming' in each.message]
    assert lines == [
        f'{tmp_path}/last.pt: resuming after epoch 1 of 3, step 2 of 6; lost, and trained again:'
        ' step 1 (of 2) of epoch 2'
    ]
    assert not (tmp_path / JOURNAL_FILE).exists()


@pytest.mark.parametrize(
    ('before', 'end'),
    [
        (None, ''),
        (Position(2, 4, 4), ''),
        (
            Position(5, 3, 4),
            ', step 8 of 40; lost, and trained again: epochs 3 to 4 and steps 1 to 3 (of 4) of'
            ' epoch 5',
        ),
        (
            Position(4, 1, 4),
            ', step 8 of 40; lost, and trained again: epoch 3 and step 1 (of 4) of epoch 4',
        ),
    ],
)
def test_the_line_of_a_resumed_run(before, end, tmp_path):
    text = describe_resume(tmp_path, 2, 10, before)
    assert text == f'{tmp_path}: resuming after epoch 2 of 10{end}'


HOLD = """
import sys, time
from pathlib import Path
from stl_core.training.run.journal import RunJournal
with RunJournal(Path(sys.argv[1])) as journal:
    journal.write(1, 2, 3)
    print('locked', flush=True)
    sys.stdin.read()
"""


def test_a_second_process_cannot_train_into_the_folder(run, capsys):
    (run / 'run/done.json').unlink()
    command = [sys.executable, '-c', HOLD, str(run / 'run')]
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == 'locked\n'
        line = only_line(capsys, run)
        process.stdin.close()
    expected = f'another process is training into this folder (process {process.pid}, epoch 1, st'
    assert line.startswith(f'stl: {run}/run: {expected}')
    train(run)


def test_a_killed_loader_is_one_line_and_loses_nothing(scenes, tmp_path):
    assert start(train_until_loader_is_killed, scenes, tmp_path) == 0
    text = (tmp_path / 'error.txt').read_text()
    assert text.startswith('DataLoader worker (pid')
    assert f'{tmp_path}/last.pt is whole: run the same command again to resume' in text
    # loaded batches may have completed another epoch
    rows = (tmp_path / 'curves.csv').read_text().splitlines()[1:]
    assert run_files.read_checkpoint(tmp_path / 'last.pt')['epoch'] == len(rows) >= 1
    assert not list(tmp_path.rglob('*.part'))


@pytest.fixture
def small_disk():
    """Limit every file that this process writes to 200 kB, less than a checkpoint has."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_keeps_the_old_checkpoint(run, small_disk, capsys):
    (run / 'run/done.json').unlink()
    before = (run / 'run/last.pt').read_bytes()
    line = only_line(capsys, run, 'epochs=3', '--extend')
    assert line == (
        f'stl: {run}/run/best.pt: cannot be written (File too large); an earlier one is'
        ' unchanged. Free space and run the same command again'
    ) or line.startswith(f'stl: {run}/run/last.pt: cannot be written (File too large)')
    assert (run / 'run/last.pt').read_bytes() == before
    assert not list(run.rglob('*.part'))


def test_a_model_file_on_a_full_disk_is_one_line(run, small_disk, capsys):
    model = run / 'run/student.safetensors'
    with pytest.raises(SystemExit):
        main.main(['export', str(model), str(run / 'half.safetensors')])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f'stl: {run}/half.safetensors: cannot be written (File too large)')
    assert not list(run.glob('half*'))


def test_json_records_of_done_runs_hold_data_and_model(finished):
    record = json.loads((finished / 'done.json').read_text())[checkpoint.RECORD_KEY]
    assert record['data']['train']['frames'] == 5
    assert record['extensions'] == []
