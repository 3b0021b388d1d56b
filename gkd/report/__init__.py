"""Reports: the table of a grid."""
