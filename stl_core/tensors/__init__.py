"""What models, distillation and training share in torch: batches, outputs, reductions."""
