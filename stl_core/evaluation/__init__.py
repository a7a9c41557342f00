"""KITTI AP, tracking metrics, and what AP hides: oracles, depth errors, calibration."""
