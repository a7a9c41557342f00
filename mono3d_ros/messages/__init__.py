"""ROS messages <-> arrays, for ROS and for bags alike."""
