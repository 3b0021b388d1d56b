"""From a validated experiment to a run: sources, networks, teachers, judging, the run folder."""
