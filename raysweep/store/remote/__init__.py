"""A root on an object store, its local copy, and the access to the store."""
