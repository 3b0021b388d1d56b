"""Layers of YAML, merged into a validated experiment."""
