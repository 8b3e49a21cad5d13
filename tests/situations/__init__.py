"""Situations from public reports: one file a kind, each naming the reports that it stands for."""
