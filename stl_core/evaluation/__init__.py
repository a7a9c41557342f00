"""KITTI AP, tracking metrics, oracle AP, depth errors and calibration of detections."""
