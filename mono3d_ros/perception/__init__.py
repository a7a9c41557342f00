"""The perception itself, without ROS: images in, tracked objects out."""
