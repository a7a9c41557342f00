"""One file a distillation loss."""
