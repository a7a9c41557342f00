"""evaluate_bag on several bags of which none can be used: one line and no folders."""

import pytest
from worker_jobs import die

from mono3d_ros.bag_evaluation import evaluate_bag, runner


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
    assert 'a.mcap: not a readable bag' in capsys.readouterr().err
    check_nothing_is_written(bags)


def test_a_dead_worker_is_reported_in_one_line(bags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, '_EvaluateBag', lambda *arguments: die)
    assert evaluate(bags, tmp_path / 'new/out') == 2
    message = 'evaluate_bag: a worker process died (out of memory?); use fewer --jobs\n'
    assert capsys.readouterr().err == message
    check_nothing_is_written(bags)
