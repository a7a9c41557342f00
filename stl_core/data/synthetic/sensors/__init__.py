"""Simulated sensors: camera, LiDAR and ray caster; exact labels from the ray hits."""
