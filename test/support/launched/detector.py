"""Test detector.launch.py by launch_testing: image in, boxes out; run by test_launch.py."""

import array
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
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import MarkerArray

TIMEOUT_S = 120.0
HEIGHT, WIDTH = 48, 160
ARGUMENTS = {'namespace': 'car', 'image_topic': '/front/image_raw', 'device': 'cpu'}


def generate_test_description():
    file = [FindPackageShare('mono3d_ros'), '/launch/detector.launch.py']
    detector = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(file), launch_arguments=ARGUMENTS.items()
    )
    return LaunchDescription([detector, launch_testing.actions.ReadyToTest()])


def image():
    data = array.array('B', bytes([90]) * HEIGHT * WIDTH * 3)
    return Image(height=HEIGHT, width=WIDTH, encoding='rgb8', step=WIDTH * 3, data=data)


def camera_info():
    return CameraInfo(
        height=HEIGHT,
        width=WIDTH,
        k=[90.0, 0.0, 80.0, 0.0, 90.0, 24.0, 0.0, 0.0, 1.0],
        p=[90.0, 0.0, 80.0, 0.0, 0.0, 90.0, 24.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


class TestLaunched(unittest.TestCase):
    def test_images_are_processed(self):
        rclpy.init()
        node, results = rclpy.create_node('camera'), []
        images = node.create_publisher(Image, '/front/image_raw', 1)
        infos = node.create_publisher(CameraInfo, '/front/camera_info', 1)
        node.create_subscription(MarkerArray, '/car/detector/markers', results.append, 10)
        image_message, info, sent = image(), camera_info(), set()
        end_s = time.monotonic() + TIMEOUT_S
        while not results and time.monotonic() < end_s:
            for each in (image_message, info):
                each.header.stamp.sec, each.header.frame_id = len(sent) + 1, 'front_optical'
            sent.add(image_message.header.stamp.sec)
            infos.publish(info)
            images.publish(image_message)
            rclpy.spin_once(node, timeout_sec=0.5)
        rclpy.shutdown()
        assert results, f'no markers for {len(sent)} images'
        header = results[0].markers[0].header
        assert header.frame_id == 'front_optical'
        assert header.stamp.sec in sent


@launch_testing.post_shutdown_test()
class TestEnded(unittest.TestCase):
    def test_exit_codes(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)
