"""Configuration, training loop, checkpoints, validation, stages."""
