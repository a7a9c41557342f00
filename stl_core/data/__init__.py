"""Datasets: files to types and batches."""
