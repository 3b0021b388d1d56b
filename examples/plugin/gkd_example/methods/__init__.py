"""The method files of this package, named NAME.yaml by the entry points of gkd.methods."""
