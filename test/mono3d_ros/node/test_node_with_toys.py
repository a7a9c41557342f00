"""The real node with a toy runtime and a toy output, each registered with one line."""

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('visualization_msgs', reason='ROS messages are not installed')

import numpy as np
import toy_runtime
from fake_vehicle import NodeHarness, finish, image, labels, start
from std_msgs.msg import Float64

from stl_core.data.sources import kitti
from stl_core.inference.model_spec import ModelSpec
from stl_core.preprocessing import InputSpec
from stl_core.types import ImageObjects

SPEC = ModelSpec(kitti.CLASSES, InputSpec(64, 64), 'toy')
OBJECTS = ImageObjects(
    class_id=np.array([0, 1]),
    score=np.array([0.9, 0.8]),
    center_px=np.array([[32.0, 32.0], [10.0, 32.0]]),
    depth_m=np.array([30.0, 12.0]),
    size_hwl_m=np.array([[1.5, 1.6, 4.0], [1.7, 0.6, 0.8]]),
    alpha=np.zeros(2),
    box_px=np.array([[20.0, 20.0, 40.0, 40.0], [5.0, 25.0, 15.0, 40.0]]),
    depth_log_sigma=np.zeros(2),
)


def test_image_in_markers_and_count_out_and_diagnostics_name_the_device(tmp_path):
    model = toy_runtime.write_toy(tmp_path / 'model.toy', SPEC, OBJECTS)
    process = start(model, script='toy_node.py')
    harness = NodeHarness()
    try:
        harness.wait_until_ready()
        counts = harness.record(Float64, 'detector/count')
        assert labels(harness.detect(image(cars=1))) == [
            'Car 0.90 30.0 m',
            'Pedestrian 0.80 12.0 m',
        ]
        assert harness.wait_until(lambda: counts or not harness.detect(image(cars=1)))
        assert {each.data for each in counts} == {2.0}
        status = harness.wait_for_status(lambda each: each.hardware_id)
        assert status.hardware_id == toy_runtime.DEVICE
    finally:
        harness.close()
        code, log = finish(process)
    assert code == 0, log
    assert f'{model} on {toy_runtime.DEVICE} detects Car, Pedestrian, Cyclist' in log, log
    assert 'torch imported: False' in log, log
