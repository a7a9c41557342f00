"""Evaluate a detector on recorded bags: the command evaluate_bag."""
