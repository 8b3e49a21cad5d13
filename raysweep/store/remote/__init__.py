"""A root on an object store."""
