"""The terminal: one module per verb, and no logic."""
