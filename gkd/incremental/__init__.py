"""Incremental learning: steps, exemplar memory, growing heads, accuracy matrices."""
