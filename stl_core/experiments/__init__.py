"""Ablation studies over methods and seeds; what distillation selects."""
