"""Monocular 3D detection taught by depth: data, detectors, training and evaluation, without ROS."""

__version__ = '0.1.0'
