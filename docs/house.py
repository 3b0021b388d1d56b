"""The wings of gkd, their floors, and the imports between them: read from the code, checked by a test, drawn as SVG.

`python docs/house.py` writes docs/house.svg.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
from house_drawing import Room, drawing

ROOT = Path(__file__).resolve().parent.parent

# Floor -> its wings, the lowest first. An import runs down, or stays on its floor without a circle.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("losses", "models", "data", "metrics", "storage"),
    ("methods",),
    ("distill", "problems"),
    ("training", "config"),
    ("experiment",),
    ("incremental", "few_shot"),
    ("report", "tasks"),
    ("commands",),
    ("cli",),
    ("gkd",),  # the roof: what `import gkd` offers, and `python -m gkd`
)
FLOOR_OF = {wing: floor for floor, wings in enumerate(FLOORS) for wing in wings}


class Import(NamedTuple):
    """One module naming another, wherever in its file: at the top, in a function, under ``TYPE_CHECKING``."""

    importer: str
    imported: str
    line: int


def modules() -> dict[str, Path]:
    """Every module of gkd/ and tasks/ by its installed name."""
    found = {}
    for folder, prefix in (("gkd", "gkd"), ("tasks", "gkd.tasks")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([prefix, *(part for part in parts if part != "__init__")])] = path
    return found


def wing(module: str) -> str:
    """The wing that a module stands in; the roof for ``gkd`` itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else "gkd"


def imports(known: dict[str, Path]) -> Iterator[Import]:
    """Every import of one module of gkd by another."""
    for name, path in known.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text())):
            for target in _targets(node, package, known):
                yield Import(name, target, node.lineno)


def _targets(node: ast.AST, package: str, known: dict[str, Path]) -> Iterator[str]:
    """The modules of gkd that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "gkd")
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        if source.split(".")[0] != "gkd":
            return
        for alias in node.names:
            # A name of a package is a module of it, or what its __init__ offers.
            yield f"{source}.{alias.name}" if f"{source}.{alias.name}" in known else source


def upward(found: list[Import]) -> list[Import]:
    """The imports that run to a higher floor."""
    return [each for each in found if FLOOR_OF[wing(each.imported)] > FLOOR_OF[wing(each.importer)]]


def circles(found: list[Import]) -> list[tuple[str, ...]]:
    """Wings of one floor that import each other, directly or by way of others of that floor."""
    level = {
        (wing(each.importer), wing(each.imported))
        for each in found
        if wing(each.importer) != wing(each.imported)
        and FLOOR_OF[wing(each.importer)] == FLOOR_OF[wing(each.imported)]
    }
    reached = {start: _reached(start, level) for start, _ in level}
    pairs = {(a, b) for a in reached for b in reached[a] if a < b and a in reached.get(b, set())}
    return sorted(pairs)


def shown_imports(every: list[Import]) -> list[tuple[str, str]]:
    """The pairs of wings that an arrow joins: importer and imported, unless a chain of other imports joins them."""
    pairs = {(wing(each.importer), wing(each.imported)) for each in every}
    pairs = {
        (above, below) for above, below in pairs if above != below and FLOOR_OF[above] >= FLOOR_OF[below]
    }
    return sorted(
        (above, below)
        for above, below in pairs
        if not any(below in _reached(end, pairs) for begin, end in pairs if begin == above and end != below)
    )


def picture() -> str:
    """The house as SVG."""
    by_name = modules()
    return drawing(
        [[_room(name, by_name) for name in wings] for wings in FLOORS], shown_imports(list(imports(by_name)))
    )


def _room(name: str, by_name: dict[str, Path]) -> Room:
    """A wing with the first line of its ``__init__`` and its files, those of each folder together."""
    files: dict[str, list[str]] = {}
    for module, path in by_name.items():
        if wing(module) == name and path.name != "__init__.py":
            files.setdefault(".".join(module.split(".")[2:-1]), []).append(path.stem)
    root = "gkd" if name == "gkd" else f"gkd.{name}"
    first_line = (ast.get_docstring(ast.parse(by_name[root].read_text())) or "").split("\n")[0]
    return Room(name, first_line.replace("``", ""), files)


def _reached(start: str, edges: set[tuple[str, str]]) -> set[str]:
    """The wings that a wing imports, and those that these import, and so on."""
    seen: set[str] = set()
    ahead = {start}
    while ahead:
        ahead = {end for begin, end in edges if begin in ahead} - seen
        seen |= ahead
    return seen


if __name__ == "__main__":
    (ROOT / "docs" / "house.svg").write_text(picture())
