"""Build and solve the runs of a validated experiment: sources, networks, teachers, judging, the run folder."""
