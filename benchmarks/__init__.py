"""Measurements of raysweep beside its peers, in the same run, as ratios: ``python -m benchmarks``."""
