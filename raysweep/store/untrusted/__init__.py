"""Checks of files that may come from strangers: checkpoints and configurations, before anything in them is used."""
