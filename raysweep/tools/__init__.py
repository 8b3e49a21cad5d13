"""One-shot work on checkpoints."""
