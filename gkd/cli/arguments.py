"""The arguments of every verb.

What is imported here is light, so that ``--help``, ``--version`` and a mistyped flag are answered at once; a verb's own
module, which imports torch, is imported when the verb is called.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gkd.commands.choices import ANSWER_FORMATS, FORMATS, RECOGNISERS
from gkd.config.overrides import is_override
from gkd.core.text import for_terminal
from gkd.core.version import VERSION
from gkd.storage.run_files import WEIGHTS

# What `gkd ls` lists.
KINDS = (
    "methods", "losses", "tasks", "networks", "data", "optimisers", "metrics", "augmentations", "configs",
)  # fmt: skip

CACHE = "cache"  # which it lists too, and which holds no names


class _Parser(argparse.ArgumentParser):
    """Its messages repeat what was typed, which a shell may have taken from the names of files."""

    def error(self, message: str) -> NoReturn:
        wrong = re.match(r"argument VERB: invalid choice: '(.*?)'", message)
        close = difflib.get_close_matches(wrong[1], VERBS, n=1) if wrong else []
        message += f"; did you mean {close[0]!r}?" if close else ""
        super().error(for_terminal(message, sys.stderr.encoding))


@dataclass(frozen=True)
class Verb:
    """What a verb is for, in a line, and a function that adds its arguments to a parser."""

    help: str
    add: Callable[[argparse.ArgumentParser], None]


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a call; ends the process with 0 for ``--help`` and ``--version``, with 2 for a wrong flag.

    Returns:
        ``verb``, and what the verb's parser names; ``overrides`` are a list wherever the verb takes any.
    """
    about = "gkd: generalised knowledge distillation across label spaces."
    parser = _Parser(prog="gkd", description=about)
    parser.add_argument("--version", action="version", version=f"gkd {VERSION}")
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        verb.add(commands.add_parser(name, help=verb.help, description=verb.help))
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives up on positionals that follow a flag; overrides and images may stand anywhere.
    takes = next((name for name in ("images", "overrides") if hasattr(arguments, name)), None)
    fitting = [word for word in rest if word[:1] != "-" and (takes == "images" or "=" in word)]
    if rest and (takes is None or fitting != rest):
        hint = (
            "; a setting is a word a.b=c without dashes, such as run.epochs=5" if takes == "overrides" else ""
        )
        parser.error(f"unrecognised: {' '.join(rest)}{hint}")
    if takes is not None:
        setattr(arguments, takes, [*getattr(arguments, takes), *rest])
    if takes == "images":
        words = arguments.images
        arguments.overrides = [*arguments.set, *filter(is_override, words)]
        arguments.images = [Path(word) for word in words if not is_override(word)]
        if not arguments.images:
            parser.error("name an image, a folder or a zip too: gkd predict RUN IMAGE a.b=c")
    return arguments


def _add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument("overrides", metavar="a.b=c", nargs="*", default=[], help=f"overrides, {example}")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", metavar="CONFIG", help="a YAML file, or a shipped config's name (gkd ls configs)"
    )
    _add_overrides(parser, "such as run.seed=1 method=sp")


def _add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", choices=tuple(WEIGHTS), default="last", help="which of the run's students (last)"
    )


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, run one batch forward and backward, train nothing",
    )


def _add_compare(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--finished", action="store_true", help="table of the finished cells; run nothing")
    one.add_argument("--print", action="store_true", help="the missing cells as shell commands; run nothing")
    one.add_argument(
        "--dry-run",
        action="store_true",
        help="build every row, try one batch of each, print the hours; train nothing",
    )


def _add_validate(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--all", action="store_true", help="print every value, those at their defaults too")


def _add_ls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "kind",
        nargs="?",
        choices=(*KINDS, CACHE),
        help="what to list; all names where it is left out; cache: what gkd keeps on disk, and its size",
    )
    parser.add_argument(
        "--clear", action="store_true", help="with cache: remove the teachers' outputs that are kept there"
    )


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a method (gkd ls methods)")


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="RUN|FILE", type=Path, help="a run folder, or a .safetensors or .pth file"
    )
    _add_overrides(
        parser,
        "for a run such as data.root=where/the/images/are/now; for a file data.name=cifar100 student.network=wrn_40_2",
    )


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, or a weight file that gkd wrote")
    _add_overrides(parser, "such as student.network=pkg.module:name, where it is your own")
    parser.add_argument("--format", choices=FORMATS, required=True, help="the file's format")
    _add_weights(parser)
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="where to; beside the weights where left out"
    )


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        metavar="RUN|FILE",
        type=Path,
        help="the folder of a finished run, or a weight file that gkd wrote",
    )
    parser.add_argument(
        "images",
        metavar="IMAGE|a.b=c",
        nargs="+",
        help="image files, folders or zips of them, and overrides such as student.network=pkg.module:name; what is a "
        "file there is an image",
    )
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
    _add_weights(parser)
    parser.add_argument(
        "--top", metavar="K", type=_at_least_one, default=1, help="the K likeliest classes of each image (1)"
    )
    parser.add_argument(
        "--format",
        choices=ANSWER_FORMATS,
        default=ANSWER_FORMATS[0],
        help=f"of the answers ({ANSWER_FORMATS[0]})",
    )
    # How predict took its overrides before it took them as every verb does.
    parser.add_argument("--set", metavar="a.b=c", action="append", default=[], help=argparse.SUPPRESS)


VERBS = {
    "run": Verb("run an experiment, or continue it, or report it where it is finished", _add_run),
    "compare": Verb("run what is missing of a config's grid and print its table", _add_compare),
    "validate": Verb(
        "check a config and print what differs from the defaults, with the origin of each value",
        _add_validate,
    ),
    "rank": Verb(
        "rank a config's teachers by what their embeddings know of the student's classes; train nothing, write no run",
        _add_config,
    ),
    "ls": Verb(
        "list methods, losses, tasks, networks, data sets, optimisers, metrics, augmentations, configs, or the cache",
        _add_ls,
    ),
    "show": Verb(
        "print a method: paper, stages, terms, weights, needs, and the source of each number", _add_show
    ),
    "eval": Verb(
        "judge a finished run's students, or the network in a weight file, on test images", _add_eval
    ),
    "export": Verb(
        "write a run's student, with its classes and input normalisation, for other programs", _add_export
    ),
    "predict": Verb(
        "say the class of images, among the run's own or among new ones of which a folder holds a few images each",
        _add_predict,
    ),
}
