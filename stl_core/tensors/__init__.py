"""Torch code that models, distillation and training share: batches, outputs, reductions."""
