"""ROS 2 node and bag tools for monocular 3D object detection; only `node` needs ROS installed."""
