"""The source of a user's modules, found and hashed without importing them.

A module of the user's own counts with those of its neighbours that it imports, as its ``import`` statements say; one of
an installed package by the package's version and its own file.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

from gkd.core.errors import UserError

_GKD = Path(__file__).parents[1]
_INSTALLED = ("site-packages", "dist-packages")
_STANDARD = Path(os.__file__).parent
_IMPORTED: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()  # module -> its source at its first use


def source_of(module: str) -> str | None:
    """What identifies the code of a module: 16 hex digits, after the package and its version where it is installed.

    Args:
        module: the dotted path; the current folder is searched last, as where modules are imported.

    Returns:
        None of a module that has no file, is not there, or is of gkd itself.
    """
    return _source_of(module, os.getcwd(), tuple(sys.path))


@lru_cache(maxsize=1)
def source_of_outputs() -> str:
    """What identifies gkd's own code that a network's outputs on a view come from: 16 hex digits."""
    digest = hashlib.sha256()
    for wing in ("core", "data", "models"):
        for path in sorted((_GKD / wing).rglob("*.py")):
            digest.update(f"{path.relative_to(_GKD)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def check_unedited(module: ModuleType, name: str) -> None:
    """Refuse a module whose source is another now than when this process imported it: what runs is the former one.

    Raises:
        UserError: an edited module.
    """
    source = source_of(name)
    if source is not None and _IMPORTED.setdefault(module, source) != source:
        raise UserError(
            f"The module {name}, or one that it imports, was edited after this process imported it, and what runs is "
            "not what stands there; start a new process (a notebook: restart its kernel).",
            code="module-edited",
        )


def forget_sources() -> None:
    """Read modules anew, because their files may have changed."""
    _source_of.cache_clear()


@lru_cache(maxsize=64)
def _source_of(module: str, _folder: str, _path: tuple[str, ...]) -> str | None:
    file = _file_of(module)
    if file is None or file.is_relative_to(_GKD):
        return None
    top = module.partition(".")[0]
    if _is_installed(file):
        packages = packages_distributions().get(top, [])
        named = [f"{package} {version(package)}" for package in packages] or ["python"]
        return f"{', '.join(named)} {_digest([file])}"
    return _digest(_neighbours(module, file))


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _neighbours(module: str, file: Path) -> list[Path]:
    """A module's file, and those of the user's modules that it imports, and those import; sorted by name."""
    found = {module: file}
    waiting = [module, *_packages_above(module)]
    while waiting:
        name = waiting.pop()
        place = found.get(name) or _file_of(name)
        if place is None or _is_installed(place) or place.is_relative_to(_GKD):
            continue
        found[name] = place
        waiting += [each for each in _imported(name, place) if each not in found and each not in waiting]
    return [found[name] for name in sorted(found)]


def _packages_above(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _imported(module: str, file: Path) -> Iterator[str]:
    """The modules that a file imports, whether or not they are there; each with the packages above it."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # a compiled module, or one whose import will fail
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in filter(None, names):
            yield from [*_packages_above(name), name]


def _is_installed(file: Path) -> bool:
    """Whether a file is of an installed package or of Python itself, rather than the user's own."""
    return any(part in _INSTALLED for part in file.parts) or file.is_relative_to(_STANDARD)


def _file_of(module: str) -> Path | None:
    """The file of a module, found without importing it or a package above it."""
    top, *below = module.split(".")
    spec = _top_spec(top)
    if spec is None:
        return None
    file = Path(spec.origin) if spec.origin is not None else None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    for part in below:
        files = [folder / name for folder in folders for name in _file_names(part)]
        file = next((path for path in files if path.is_file()), None)
        folders = [folder / part for folder in folders if (folder / part).is_dir()]
    return file if file is not None and file.is_file() else None  # not "built-in" or "frozen"


def _file_names(part: str) -> list[str]:
    return [f"{part}/__init__.py", f"{part}.py", *(f"{part}{suffix}" for suffix in EXTENSION_SUFFIXES)]


def _top_spec(top: str) -> ModuleSpec | None:
    spec = PathFinder.find_spec(top, [*sys.path, os.getcwd()])
    if spec is not None:
        return spec
    try:
        return importlib.util.find_spec(top)  # of an editable installation, which has a finder of its own
    except (ImportError, ValueError):
        return None
