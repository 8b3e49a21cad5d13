"""Whole repositories of others, used as they are; see ``python -m tests.guests --help``."""
