"""gkd predict: classify images among a run's classes, or among new ones of which a folder holds a few images."""

from __future__ import annotations

import argparse

from rich.console import Console

from gkd.commands.choices import RECOGNISERS
from gkd.commands.predict import recognise, recognise_known
from gkd.core.errors import UserError
from gkd.core.text import say, visible


def main(arguments: argparse.Namespace, console: Console) -> int:
    which = {"weights": arguments.weights, "overrides": arguments.overrides}
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
        say(console, f"{visible(str(answer.image))}: {visible(answer.name)} ({answer.confidence:.1%})")
    return 0
