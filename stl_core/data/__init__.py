"""Data sets: readers, augmentation, depth maps, batches, synthetic data."""
