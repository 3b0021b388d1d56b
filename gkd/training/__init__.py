"""The training loop, with its settings, stages, meter and predictions."""
