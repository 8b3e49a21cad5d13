"""One process's training."""
