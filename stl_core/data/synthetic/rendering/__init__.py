"""Rendering: ray hits to an image, with surfaces, lighting and shadows."""
