"""The synthetic world as a nuScenes database: six cameras and a LiDAR on a driving vehicle."""
