"""Scene generation of the synthetic world: road, traffic, scenery, materials."""
