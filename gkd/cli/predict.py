"""gkd predict: classify images among a run's classes, or among new ones of which a folder holds a few images."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable, Sequence

from rich.console import Console

from gkd.commands.choices import RECOGNISERS
from gkd.commands.predict import Answer, judged_otherwise, recognise, recognise_known
from gkd.core.errors import UserError
from gkd.core.text import complain, decoded, for_csv, say, visible
from gkd.experiment.run_folder import unchecked


def main(arguments: argparse.Namespace, console: Console) -> int:
    which = {"weights": arguments.weights, "overrides": arguments.overrides, "top": arguments.top}
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
    for_new_classes = arguments.support is not None
    for note in (unchecked(arguments.run), None if for_new_classes else judged_otherwise(arguments.run)):
        if note is not None:
            complain(f"note: {note}")
    say(console, _FORMS[arguments.format](answers), end="", wrap=arguments.format == "text")
    return 0


def _as_text(answers: Sequence[Answer]) -> str:
    """A line an image: its path, and each class with its confidence."""
    lines = []
    for answer in answers:
        guesses = ", ".join(f"{visible(guess.name)} ({guess.confidence:.1%})" for guess in answer.guesses)
        lines.append(f"{visible(str(answer.image))}: {guesses}\n")
    return "".join(lines)


def _as_csv(answers: Sequence[Answer]) -> str:
    """A row an image and class, the likeliest first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", "rank", "class", "confidence"])
    for answer in answers:
        for rank, guess in enumerate(answer.guesses, start=1):
            cells = decoded(str(answer.image)), rank, guess.name, f"{guess.confidence:.6f}"
            writer.writerow(map(for_csv, cells))
    return out.getvalue()


def _as_json(answers: Sequence[Answer]) -> str:
    """A list with an object an image."""
    content = [
        {
            "image": decoded(str(answer.image)),
            "classes": [
                {"class": guess.name, "confidence": round(guess.confidence, 6)} for guess in answer.guesses
            ],
        }
        for answer in answers
    ]
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


_FORMS: dict[str, Callable[[Sequence[Answer]], str]] = {"text": _as_text, "csv": _as_csv, "json": _as_json}
