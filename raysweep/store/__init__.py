"""The experiment folder."""
