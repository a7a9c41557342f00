"""Coordinate frames: transforms, a buffer, the history of a bag, camera poses."""
