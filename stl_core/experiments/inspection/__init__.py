"""Inspection of a trained distillation: object weights, affinities, separability of features."""
