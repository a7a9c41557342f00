"""The real node in its own process over DDS, with a detector that is registered by one line."""

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

import toy_detector
from fake_vehicle import NodeHarness, added, finish, image, start

from stl_core.models import DETECTORS


def test_an_image_gives_markers_of_a_new_detector(tmp_path, monkeypatch):
    monkeypatch.setitem(DETECTORS, 'toy', toy_detector.ENTRY)
    model = toy_detector.save_untrained(tmp_path / 'toy.safetensors')
    process = start(model, '-p', 'score_threshold:=0.01', script='toy_detector_node.py')
    harness = NodeHarness()
    try:
        harness.wait_until_ready()
        assert added(harness.detect(image(cars=1)))
    finally:
        harness.close()
        code, log = finish(process)
    assert code == 0, log
    assert 'Traceback' not in log, log
