"""What may come from strangers."""
