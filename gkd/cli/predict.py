"""gkd predict: classify images among a run's classes, or among new ones of which a folder holds a few images."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from gkd.commands.predict import RECOGNISERS, recognise, recognise_known
from gkd.core.errors import UserError
from gkd.storage.run_files import WEIGHTS

HELP = (
    "say the class of images, among the run's own or among new ones of which a folder holds a few images each"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a finished run")
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="image files")
    parser.add_argument(
        "--support",
        metavar="DIR",
        type=Path,
        help="a folder or zip of CLASS/FILE; without it the classes are the run's own",
    )
    parser.add_argument(
        "--classifier",
        choices=RECOGNISERS,
        help=f"of new classes, on the student's embedding ({RECOGNISERS[0]})",
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
    which = {"weights": arguments.weights, "overrides": arguments.set}
    if arguments.support is not None:
        classifier = arguments.classifier or RECOGNISERS[0]
        answers = recognise(
            arguments.run, arguments.support, arguments.images, classifier=classifier, **which
        )
    elif arguments.classifier is not None:
        raise UserError(
            f"--classifier {arguments.classifier} is for new classes; add --support, a folder of a few images of each, "
            "or leave it out for the run's own classes.",
            code="needs-support",
        )
    else:
        answers = recognise_known(arguments.run, arguments.images, **which)
    for answer in answers:
        console.print(
            f"{answer.image}: {answer.name} ({answer.confidence:.1%})", markup=False, highlight=False
        )
    return 0
