"""A method as data: stages of weighted terms."""
