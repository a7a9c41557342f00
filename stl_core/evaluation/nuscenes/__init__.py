"""Evaluation by the benchmark of nuScenes: results, the devkit, what its figures hide."""
