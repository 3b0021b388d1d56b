"""Files: weights, checkpoints, JSON, the names in a run folder."""
