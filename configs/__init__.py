"""Experiments and methods as YAML; installed as ``gkd.configs``."""
