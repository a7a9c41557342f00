"""Samples of several cameras for training: augmentation of pictures and ground, depth, dataset."""
