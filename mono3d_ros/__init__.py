"""Camera streams in, 3D objects out: the ROS 2 side. Only node.py needs ROS to be installed."""
