"""Test surround.launch.py by launch_testing: six cameras; run by test_launch.py."""

import time
import unittest

import launch_testing
import launch_testing.actions
import launch_testing.asserts
import rclpy
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.substitutions import FindPackageShare

TIMEOUT_S = 120.0
CAMERAS = ('front', 'front_right', 'back_right', 'back', 'back_left', 'front_left')


def generate_test_description():
    file = [FindPackageShare('mono3d_ros'), '/launch/surround.launch.py']
    detector = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(file), launch_arguments={'device': 'cpu'}.items()
    )
    return LaunchDescription([detector, launch_testing.actions.ReadyToTest()])


class TestLaunched(unittest.TestCase):
    def test_each_camera_has_its_topics(self):
        rclpy.init()
        node, end_s = rclpy.create_node('observer'), time.monotonic() + TIMEOUT_S
        inputs = {f'/{name}/{topic}' for name in CAMERAS for topic in ('image_raw', 'camera_info')}
        outputs = {f'/detector/{name}/markers' for name in CAMERAS}
        subscribed = published = set()
        while not (inputs <= subscribed and outputs <= published) and time.monotonic() < end_s:
            rclpy.spin_once(node, timeout_sec=0.2)
            subscribed = {topic for topic in inputs if node.count_subscribers(topic)}
            published = {topic for topic in outputs if node.count_publishers(topic)}
        rclpy.shutdown()
        assert subscribed == inputs
        assert published == outputs


@launch_testing.post_shutdown_test()
class TestEnded(unittest.TestCase):
    def test_exit_codes(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)
