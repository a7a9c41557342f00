"""What a synthetic world is made of: road, traffic, scenery, materials."""
