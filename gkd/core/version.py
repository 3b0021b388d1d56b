"""The version of gkd, which runs record."""

VERSION = "0.1.0"
