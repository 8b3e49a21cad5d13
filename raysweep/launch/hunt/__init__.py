"""Run a hunt: rounds of sweeps, the control chain beside them, and the winner once more with new seeds."""
