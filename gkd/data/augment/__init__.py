"""Augmentation of whole batches, normalisation, and what each side sees."""
