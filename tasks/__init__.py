"""Between whom: the task adapters. Installed as ``gkd.tasks`` and found by entry point."""
