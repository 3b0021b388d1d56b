"""Every module and file of gkd that a page, a docstring, a comment or an error names is there."""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    "gkd",
    "tasks",
    "configs",
    "tests",
    "examples",
    "docs",
    "benchmarks",
)  # what a path of this tree begins with
PAGES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml")
]
PAGES += sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))
SOURCES = sorted(path for folder in FOLDERS if folder != "tests" for path in (ROOT / folder).rglob("*.py"))
DOTTED = re.compile(r"(?<![\w./-])gkd(?:\.[A-Za-z_]\w*)+")
FILE = re.compile(
    rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w/.-]*\w\.(?:py|yaml|md|json|csv|svg|txt)(?![\w-])"
)
ROLE = re.compile(r":(?:mod|func|class|meth|data|attr|obj):`~?\.?([A-Za-z_][\w.]*)`")
ELSEWHERE = {"configs/cifar100/dkd/res32x4_res8x4.yaml"}  # a file of the authors' code that a benchmark runs
# Entry-point groups are named like modules; those that gkd itself fills stand in pyproject.toml.
GROUPS = {
    "gkd.losses",
    "gkd.methods",
    "gkd.metrics",
    "gkd.optimisers",
    "gkd.networks",
    "gkd.datasets",
    "gkd.tasks",
}


def resolves(name: str) -> bool:
    """Whether a dotted name is a module of gkd, or an attribute, a field or a member of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("gkd"):
                raise  # gkd's module is there; what it needs is not
            continue
        return all((thing := _member(thing, part)) is not None for part in parts[end:])
    return False


def _member(thing: object, name: str) -> object | None:
    """An attribute, or a field that a class only annotates."""
    fields = getattr(thing, "__annotations__", {})
    return getattr(thing, name, fields.get(name))


def unknown_names(path: Path) -> Iterator[str]:
    """``file:line: name`` of every name in a file that leads nowhere."""
    inside = path.suffix == ".py"
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if path.name == "CHANGELOG.md" and line.startswith("| `gkd"):
            line = line.rpartition("| `")[
                2
            ]  # the table of moved modules: the old name leads nowhere, the new one must
        unknown = [name for name in DOTTED.findall(line) if name not in GROUPS and not resolves(name)]
        unknown += [name for name in FILE.findall(line) if not _is_file(name)]
        if inside:
            bare = (name for name in ROLE.findall(line) if not name.startswith("gkd."))
            unknown += [name for name in bare if not resolves(f"{_module(path)}.{name}")]
        yield from (f"{path.relative_to(ROOT)}:{number}: {name}" for name in unknown)


def _is_file(name: str) -> bool:
    """Whether a path of the tree, or of the files of others that are quoted, leads somewhere."""
    return name in ELSEWHERE or (ROOT / name).exists()


def _module(path: Path) -> str:
    """The name under which a file of gkd/ or tasks/ is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("gkd", *parts) if parts[0] == "tasks" else parts).removesuffix(".__init__")


def test_what_pages_name_is_there() -> None:
    assert [each for path in PAGES for each in unknown_names(path)] == []


def test_what_docstrings_comments_and_errors_name_is_there() -> None:
    assert len(SOURCES) > 150  # the reader reads
    assert [each for path in SOURCES for each in unknown_names(path)] == []


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("gkd.losses.tuples", True),
        ("gkd.losses.tuple_loss", True),
        ("gkd.core.network.Features.maps", True),
        ("gkd.core.labels.LabelSpace.names", True),
        ("gkd.training.loop._train_stage", True),
        ("gkd.labels", False),
        ("gkd.losses.no_such_loss", False),
        ("gkd.core.network.Features.no_such_field", False),
    ],
)
def test_a_name_is_there_or_not(name: str, there: bool) -> None:
    assert resolves(name) is there


def test_entry_point_groups_are_those_that_pyproject_fills_or_offers() -> None:
    filled = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(filled) <= GROUPS
