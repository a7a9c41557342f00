"""Distillation losses: functions (view, config, normalizer) -> unweighted scalar."""
