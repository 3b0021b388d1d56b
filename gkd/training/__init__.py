"""The training loop and what it reads: settings, meter, predictions."""
