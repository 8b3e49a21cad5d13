"""One process's training: models, state, the loop, metrics, the checkpoint callback. Knows torch, not ray."""
