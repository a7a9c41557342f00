"""Training: configuration, training loop, checkpoints, validation, multi-stage runs."""
