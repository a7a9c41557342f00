"""A procedural driving world: camera, LiDAR, dense depth and exact KITTI labels from a seed."""
