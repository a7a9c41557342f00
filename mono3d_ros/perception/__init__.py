"""Perception pipeline without ROS: images in, filtered and tracked objects out."""
