"""Monocular 3D detection taught by depth: data, detectors, training, evaluation; no ROS."""

__version__ = '0.1.0'
