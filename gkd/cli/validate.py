"""gkd validate: every mistake of a config at once, and what it resolves to."""

from __future__ import annotations

import argparse

from rich.console import Console

from gkd import config, grid
from gkd.cli import add_config_arguments

HELP = "check a config and print it resolved, with the origin of each value"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)


def main(arguments: argparse.Namespace, console: Console) -> int:
    resolved = config.load(arguments.config, arguments.overrides)
    if resolved.experiment.compare is not None:
        count = sum(1 for _ in grid.cells(resolved))
        console.print(f"# a grid of {count} cells", markup=False, highlight=False)
    console.print(resolved.annotated_yaml(), end="", markup=False, highlight=False)
    return 0
