"""Files: weights, checkpoints, JSON records, and the names in a run folder."""
