"""Between whom: problems, class selections, and the task protocol."""
