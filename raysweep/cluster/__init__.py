"""The connection to Ray."""
