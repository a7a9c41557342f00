"""Distillation losses: functions (DistillView, config) -> unweighted scalar."""
