"""ROS 2 lifecycle node `detector`; the only package that imports rclpy."""
