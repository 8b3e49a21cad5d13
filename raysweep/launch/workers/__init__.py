"""One training on Ray workers."""
