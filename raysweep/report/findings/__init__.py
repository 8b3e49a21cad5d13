"""What may be said of a difference: seeds and images as two random factors, and what a moved threshold gives without training."""
