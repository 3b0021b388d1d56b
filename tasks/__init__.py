"""The task adapters: between whom a method distils. Installed as ``gkd.tasks`` and found by entry point."""
