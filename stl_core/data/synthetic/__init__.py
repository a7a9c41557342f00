"""Synthetic data: images, LiDAR scans, dense depth and exact KITTI labels from a seed."""
