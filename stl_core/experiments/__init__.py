"""Ablation studies over methods and seeds; inspection of trained distillations."""
