"""A run and its folder: set up, resume, extend, and the record of its data."""
