"""Run what was planned, on Ray or in this process."""
