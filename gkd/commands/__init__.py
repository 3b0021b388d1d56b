"""The work of each verb, callable from Python."""
