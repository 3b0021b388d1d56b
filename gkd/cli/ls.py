"""gkd ls: list methods, losses and whatever else a config names, without importing any of it."""

from __future__ import annotations

import argparse
import ast
import json
import textwrap
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from gkd.cli.arguments import CACHE, KINDS
from gkd.commands.cache import cache_folder, clear_outputs, in_cache
from gkd.core.errors import UserError
from gkd.core.plugins import distribution, entry_point_table
from gkd.core.text import say, text_width
from gkd.methods.optimiser_choices import NOT_TAKEN

# Kind -> the entry-point group in which other packages offer more of it.
_GROUPS = {
    "methods": "gkd.methods",
    "losses": "gkd.losses",
    "tasks": "gkd.tasks",
    "networks": "gkd.networks",
    "data": "gkd.datasets",
    "optimisers": "gkd.optimisers",
    "metrics": "gkd.metrics",
}


def main(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.clear and arguments.kind != CACHE:
        raise UserError(
            f"gkd ls {arguments.kind or '--clear'} lists names, which cannot be cleared; the cache can: "
            "gkd ls cache --clear.",
            code="nothing-to-clear",
        )
    if arguments.kind == CACHE:
        return _cache(console, clear=arguments.clear)
    for kind in [arguments.kind] if arguments.kind else KINDS:
        if arguments.kind is None:
            say(console, f"{kind}:")
        entries = own_names(kind)
        entries |= {name: about for name, about in _offered(kind).items() if name not in entries}
        for line in _lines(entries, text_width(console)):
            say(console, line)
    return 0


def _cache(console: Console, *, clear: bool) -> int:
    """Print what the cache holds, a line a kind; or empty it of teachers' outputs."""
    if clear:
        gone = clear_outputs()
        say(console, f"removed {gone.count} files of teacher outputs, {gone.size}, from {cache_folder()}")
        return 0
    say(console, f"cache in {cache_folder()}:")
    held = in_cache()
    for name, group in held.items():
        say(console, f"  {name:{max(map(len, held))}}  {group.count:5} files  {group.size:>9}")
    return 0


def own_names(kind: str) -> dict[str, str]:
    """gkd's own names of a kind, each with a line about it, from the file that docs/names.py writes."""
    if kind == "optimisers":
        return dict.fromkeys(["sgd", "adamw", *_torch_optimisers()], "")
    text = resources.files("gkd.cli").joinpath("names.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text)[kind]
    return found


def _torch_optimisers() -> list[str]:
    """The classes of ``torch.optim`` in the torch that is installed, read from its source."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return []
    tree = ast.parse((Path(spec.origin).parent / "optim" / "__init__.py").read_text(encoding="utf-8"))
    imported = (
        alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    )
    return sorted({name for name in imported if name[0].isupper() and name not in NOT_TAKEN})


def _offered(kind: str) -> dict[str, str]:
    """Plug-ins of a kind by name, each with the package that it is from; none is imported."""
    return {
        name: " and ".join(f"{point.value} of the package {distribution(point)}" for point in points)
        for name, points in entry_point_table(_GROUPS.get(kind, "")).items()
    }


def _lines(entries: dict[str, str], width: int | None) -> list[str]:
    """A line a name, longer ones wrapped under their text where there is a width."""
    left = max(map(len, entries), default=0)
    lines = [f"  {name:{left}}  {about}".rstrip() for name, about in entries.items()]
    if width is None:
        return lines
    indent = " " * min(left + 4, width // 2)
    return [
        part
        for line in lines
        for part in textwrap.wrap(line, width, subsequent_indent=indent, drop_whitespace=True)
    ]
