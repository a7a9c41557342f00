"""From ray hits to a picture: surfaces, light, shadows."""
