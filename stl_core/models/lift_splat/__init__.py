"""Lift-splat: a detector of several cameras on the ground around a vehicle; see detector.py."""
