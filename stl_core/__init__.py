"""Monocular 3D detection, distilled from LiDAR depth: data, training, evaluation; no ROS."""

__version__ = '0.1.0'
