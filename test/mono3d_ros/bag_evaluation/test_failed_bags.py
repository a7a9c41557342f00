"""evaluate_bag on several bags of which some or all cannot be used: one line for each."""

import json

import pytest
from small_bags import SMALL_BAGS, bag_files, write_camera_mcap
from worker_jobs import DiesAfterA, die

from mono3d_ros.bag_evaluation import evaluate_bag, runner
from mono3d_ros.bag_evaluation.replay import EvaluationOptions
from mono3d_ros.bags.drive_query import DriveQuery
from mono3d_ros.bags.storage.folder import find_bags
from mono3d_ros.params import Params
from mono3d_ros.perception import model_loading

MODEL = runner.ModelRef(model_loading.find_model(Params().model, str), 'cpu')


@pytest.fixture
def bags(tmp_path):
    folder = tmp_path / 'bags'
    folder.mkdir()
    for name in ('a.mcap', 'b.mcap'):
        (folder / name).write_bytes(b'no bag')
    (tmp_path / 'model.safetensors').touch()
    return folder


def evaluate(bags, out):
    model = bags.parent / 'model.safetensors'
    arguments = [bags, out, '--model', model, '--device', 'cpu', '--jobs', 1]
    return evaluate_bag.main([str(each) for each in arguments])


def check_nothing_is_written(bags):
    assert {each.name for each in bags.parent.iterdir()} == {'bags', 'model.safetensors'}


def test_unreadable_bags_leave_no_parent_folders(bags, tmp_path, capsys):
    assert evaluate(bags, tmp_path / 'new/nested/out') == 2
    stderr = capsys.readouterr().err
    assert 'a.mcap: not a readable bag' in stderr
    assert stderr.rstrip().endswith('no other bag can be used (b.mcap)')
    check_nothing_is_written(bags)


def test_a_dead_worker_is_reported_in_one_line(bags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, '_EvaluateBag', lambda *arguments: die)
    assert evaluate(bags, tmp_path / 'new/out') == 2
    message = 'evaluate_bag: a worker process died (out of memory?); use fewer --jobs\n'
    assert capsys.readouterr().err == message
    check_nothing_is_written(bags)


@pytest.fixture
def damaged(tmp_path):
    """Return a folder with two whole bags and a damaged one of every storage."""
    folder = tmp_path / 'many'
    folder.mkdir()
    for name in ('a', 'z'):
        write_camera_mcap(folder / name)
    for name, write in SMALL_BAGS.items():
        if name == 'mcap_unfinished':
            continue
        file = max(bag_files(write(folder / f'bad_{name}')), key=lambda each: each.stat().st_size)
        file.write_bytes(file.read_bytes()[:100])
    return folder


def test_damaged_bags_do_not_end_the_run_of_a_folder(damaged, tmp_path):
    result, errors = runner.evaluate_bags(
        find_bags(damaged),
        tmp_path / 'out',
        MODEL,
        EvaluationOptions(DriveQuery(), Params()),
        1,
    )
    bad = sorted(each.name for each in damaged.iterdir() if each.name.startswith('bad'))
    assert len(errors) == len(bad)
    for name, error in zip(bad, errors, strict=True):
        assert name in error
        assert '\n' not in error
    figures = json.loads((tmp_path / 'out/figures.json').read_text())
    assert figures['bags'] == ['a.mcap', 'z.mcap']
    assert figures['frames'] == {'camera': 12}
    assert (tmp_path / 'out/report.html').exists()
    assert [each.name for each in result.replay_result.reports] == ['a.mcap', 'z.mcap']
    assert {each.name for each in (tmp_path / 'out').iterdir() if each.is_dir()} >= {
        'a.mcap',
        'z.mcap',
    }


def test_a_fault_of_this_package_is_named_and_does_not_end_the_run(tmp_path):
    bag = write_camera_mcap(tmp_path / 'a')
    evaluate = runner._EvaluateBag(tmp_path / 'out', MODEL, None)
    message = evaluate(bag)
    assert message.startswith(f'{bag}: AttributeError: ')
    assert message.endswith(')')
    assert '.py:' in message


def test_results_from_before_a_worker_died_are_reported(tmp_path, monkeypatch):
    bags = [write_camera_mcap(tmp_path / name) for name in ('a', 'b', 'c')]
    monkeypatch.setattr(runner, '_EvaluateBag', DiesAfterA)
    result, errors = runner.evaluate_bags(
        bags,
        tmp_path / 'out',
        MODEL,
        EvaluationOptions(DriveQuery(), Params()),
        1,
    )
    assert [each.name for each in result.replay_result.reports] == ['a.mcap']
    assert [each.split(': ')[0] for each in errors] == [str(each) for each in bags[1:]]
    assert all('not evaluated: a worker process died' in each for each in errors)
    figures = json.loads((tmp_path / 'out/figures.json').read_text())
    assert figures['bags'] == ['a.mcap']
