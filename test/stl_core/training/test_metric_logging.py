"""Metric tables, TensorBoard, model selection and early stopping."""

import sys

import pytest

from stl_core.training import metric_logging, validation


def test_only_a_new_maximum_is_the_best():
    assert validation.is_best([1.0])
    assert not validation.is_best([1.0, 1.0])
    assert validation.is_best([0.0, 2.0, 1.0, 3.0])
    assert not validation.is_stalled([3.0, 1.0, 1.0], 0)
    assert validation.is_stalled([3.0, 1.0, 1.0], 2)
    assert not validation.is_stalled([3.0, 1.0, 4.0, 4.0], 2)


def test_tensorboard_holds_every_point_once(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done in (0, 2):  # stopped after epoch 4 with a checkpoint of epoch 2, then resumed
        with metric_logging.MetricLogger(tmp_path, done) as tables:
            for epoch in range(done + 1, 5):
                tables.add_row('curves', epoch, {'total': 10.0 * done + epoch})
    events = EventAccumulator(str(tmp_path / 'tensorboard')).Reload().Scalars('curves/total')
    assert [(each.step, each.value) for each in events] == [(1, 1), (2, 2), (3, 23), (4, 24)]
    assert tables.column('curves', 'total') == [1, 2, 23, 24]


def test_missing_tensorboard_is_logged_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with caplog.at_level('INFO'), metric_logging.MetricLogger(tmp_path, 0) as tables:
        tables.add_row('curves', 1, {'total': 1.0})
        tables.add_row('curves', 2, {'total': 2.0})
    assert [each.message for each in caplog.records] == [
        "no TensorBoard curves: pip install tensorboard, or this package's extra 'train'"
    ]


def test_an_incomplete_last_row_is_dropped(tmp_path):
    path = tmp_path / 'curves.csv'
    path.write_text('epoch,total\n1,5\n2,4\n3,')
    with metric_logging.MetricLogger(tmp_path, 3) as tables:
        tables.add_row('curves', 3, {'total': 3.0})
    assert path.read_text().splitlines() == ['epoch,total', '1,5', '2,4', '3,3']


def test_a_table_of_an_older_version_gets_the_new_columns(tmp_path):
    path = tmp_path / 'curves.csv'
    path.write_text('epoch,total,old\r\n1,5,7\r\n')
    with metric_logging.MetricLogger(tmp_path, 1) as tables:
        tables.add_row('curves', 2, {'total': 3.0, 'skipped': 1.0})
        tables.add_row('curves', 3, {'total': 2.0, 'skipped': 0.0})
    assert path.read_text().splitlines() == [
        'epoch,total,old,skipped',
        '1,5,7,nan',
        '2,3,nan,1',
        '3,2,nan,0',
    ]
