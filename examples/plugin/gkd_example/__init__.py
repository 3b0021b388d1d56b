"""Plug-ins for gkd: see pyproject.toml for which they are."""
