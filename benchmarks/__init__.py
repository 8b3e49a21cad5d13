"""Benchmarks that measure raysweep and its peers in the same run and report ratios: ``python -m benchmarks``."""
