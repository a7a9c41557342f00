"""Counters, diagnostics and throttled logging."""
