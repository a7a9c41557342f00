"""Camera, LiDAR and the ray caster; exact labels from what rays hit."""
