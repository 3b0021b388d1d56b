"""gkd predict: which of some new classes is an image of? Few images of each suffice."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from gkd.recognise import RECOGNISERS, recognise
from gkd.results import WEIGHTS

HELP = "say the class of images, among new classes of which a folder holds a few images each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a finished run")
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="image files")
    parser.add_argument(
        "--support",
        metavar="DIR",
        type=Path,
        required=True,
        help="a folder or zip of CLASS/FILE",
    )
    parser.add_argument(
        "--classifier", choices=RECOGNISERS, default=RECOGNISERS[0], help="on the student's embedding"
    )
    parser.add_argument(
        "--weights", choices=tuple(WEIGHTS), default="last", help="which of the run's students"
    )
    parser.add_argument(
        "--set",
        metavar="a.b=c",
        action="append",
        default=[],
        help="an override, such as student.network=mine:net",
    )


def main(arguments: argparse.Namespace, console: Console) -> int:
    answers = recognise(
        arguments.run,
        arguments.support,
        arguments.images,
        classifier=arguments.classifier,
        weights=arguments.weights,
        overrides=arguments.set,
    )
    for answer in answers:
        console.print(
            f"{answer.image}: {answer.name} ({answer.confidence:.1%})", markup=False, highlight=False
        )
    return 0
