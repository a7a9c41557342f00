"""surround.launch.py under launch_testing: six cameras; started by test_launch.py."""

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

PATIENCE_S = 120.0
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
        node, end_s = rclpy.create_node('looker'), time.monotonic() + PATIENCE_S
        wanted = {f'/{name}/{topic}' for name in CAMERAS for topic in ('image_raw', 'camera_info')}
        answers = {f'/detector/{name}/markers' for name in CAMERAS}
        heard = said = set()
        while not (wanted <= heard and answers <= said) and time.monotonic() < end_s:
            rclpy.spin_once(node, timeout_sec=0.2)
            heard = {topic for topic in wanted if node.count_subscribers(topic)}
            said = {topic for topic in answers if node.count_publishers(topic)}
        rclpy.shutdown()
        assert heard == wanted
        assert said == answers


@launch_testing.post_shutdown_test()
class TestEnded(unittest.TestCase):
    def test_exit_codes(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)
