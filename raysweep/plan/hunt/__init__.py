"""What a hunt decides: its space, its proposals and its budget. No Ray, no torch."""
