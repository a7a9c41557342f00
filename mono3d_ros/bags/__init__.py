"""Read, write and convert ROS 2 bags without a ROS installation."""
