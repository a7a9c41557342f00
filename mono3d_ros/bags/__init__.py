"""Read, write and convert bags, without ROS."""
