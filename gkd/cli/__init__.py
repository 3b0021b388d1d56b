"""The command line: one verb a file, errors as one sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from rich.console import Console

from gkd.core.errors import UserError
from gkd.core.version import VERSION
from gkd.training.interrupt import Interrupted


def verbs() -> dict[str, ModuleType]:
    """Verb -> module with ``HELP``, ``add_arguments`` and ``main``."""
    from gkd.cli import compare, eval, export, ls, predict, run, show, validate

    return {
        "run": run,
        "compare": compare,
        "validate": validate,
        "ls": ls,
        "show": show,
        "eval": eval,
        "export": export,
        "predict": predict,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Returns:
        The exit code: 0, 2 for bad input (one sentence on stderr), 130 after Ctrl-C (all is saved).
    """
    return _guarded(lambda: _dispatch(argv))


def _dispatch(argv: Sequence[str] | None) -> int:
    about = "gkd: generalised knowledge distillation across label spaces."
    parser = argparse.ArgumentParser(prog="gkd", description=about)
    parser.add_argument("--version", action="version", version=f"gkd {VERSION}")
    commands = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, module in verbs().items():
        sub = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(sub)
        sub.set_defaults(main=module.main)
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives up on positionals that follow a flag; overrides may stand anywhere.
    if rest and hasattr(arguments, "overrides") and all("=" in text and text[0] != "-" for text in rest):
        arguments.overrides = [*arguments.overrides, *rest]
    elif rest:
        parser.error(f"unrecognised: {' '.join(rest)}")
    code: int = arguments.main(arguments, Console(soft_wrap=True))
    return code


def _guarded(body: Callable[[], int]) -> int:
    try:
        return body()
    except UserError as error:
        print(f"gkd: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"gkd: {stop}; repeat the command to continue.", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("gkd: stopped at once; repeat the command to continue from what was saved.", file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        print(f"gkd: {error.strerror}: {error.filename or 'device'}; mend that and repeat.", file=sys.stderr)
        return 2


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG and a.b=c, which several verbs take."""
    parser.add_argument(
        "config", metavar="CONFIG", help="a YAML file, or a shipped config's name (gkd ls configs)"
    )
    parser.add_argument(
        "overrides", metavar="a.b=c", nargs="*", default=[], help="overrides, such as run.seed=1 method=sp"
    )
