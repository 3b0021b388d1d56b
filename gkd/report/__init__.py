"""Tables and plots of runs and grids."""
