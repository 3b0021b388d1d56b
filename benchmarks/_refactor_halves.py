"""The two halves of `benchmarks/refactor.py`: a checkout each, what was recorded of it, what differs between them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

Cell = dict[str, Any]
SIDES = ("before", "after")
# What two runs of the same code differ in. The bytes of weight files do, for safetensors writes what it says beside the
# tensors in no fixed order; the tensors are compared. Versions of packages are, too, before anything is run.
PASSING = ("seconds", "bookkeeping_seconds", "images_per_second", "commit", "versions", "sha256")
CODE = ("gkd", "tasks", "configs")
_SOURCES = (".py", ".yaml", ".txt", ".csv", ".json")
_PROBE = """
import json, pathlib, platform, torch
from importlib.metadata import version
packages = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "timm")
told = pathlib.Path("/proc/cpuinfo")
lines = told.read_text().splitlines() if told.exists() else []
cpu = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
print(json.dumps({
    "python": platform.python_version(), **{name: version(name) for name in packages},
    "cpu": f"{cpu[0] if cpu else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
}))
"""


class Failed(Exception):
    """A command ended otherwise than it should; nothing of its cell is kept."""


@dataclass(frozen=True)
class Checkout:
    """A clone of the repository with its own ``.venv``, in which gkd is installed from that clone."""

    path: Path

    @property
    def python(self) -> str:
        return str(self.path / ".venv" / "bin" / "python")

    @property
    def gkd(self) -> str:
        return str(self.path / ".venv" / "bin" / "gkd")

    @cached_property
    def commit(self) -> str:
        """The short commit, with ``+`` where tracked files of the code differ from it."""
        git = ["git", "-C", str(self.path)]
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
        changed = [*git, "status", "--porcelain", "--", *CODE]
        dirty = subprocess.run(changed, capture_output=True, text=True)
        return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")

    @cached_property
    def environment(self) -> dict[str, str]:
        """Versions and processor, on which the last bit of a result depends."""
        found: dict[str, str] = json.loads(self.answer(_PROBE))
        return found

    @cached_property
    def version(self) -> str:
        """gkd's own version, which a run that is continued must find again."""
        return self.answer("import gkd; print(gkd.__version__)").strip()

    def answer(self, program: str) -> str:
        """What a line of Python prints in this checkout's interpreter; refused where gkd comes from elsewhere."""
        where = "import gkd, os; print(os.path.realpath(gkd.__file__))\n"
        done = subprocess.run(
            [self.python, "-c", where + program], cwd="/", env=environment(1), capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"The interpreter of {self.path} does not import gkd:\n{done.stderr}")
        first, _, rest = done.stdout.partition("\n")
        if not first.startswith(f"{self.path.resolve()}{os.sep}"):
            raise SystemExit(f"The .venv of {self.path} imports gkd from {first}; install that clone in it.")
        return rest

    def sources(self, *more: str) -> str:
        """A checksum over the code, and over more folders (patterns): what was measured of other code is not kept."""
        total = hashlib.sha256()
        for folder in (one for pattern in (*CODE, *more) for one in sorted(self.path.glob(pattern))):
            for path in sorted(folder.rglob("*")):
                if path.suffix in _SOURCES and path.is_file():
                    total.update(f"{path.relative_to(self.path)}\0".encode())
                    total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()[:12]


def environment(threads: int, cache: Path | None = None) -> dict[str, str]:
    """This process's environment for a command of a checkout: its threads, no other's modules, its own cache."""
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    own |= {"OMP_NUM_THREADS": str(threads), "COLUMNS": "120"}
    return own | ({"GKD_CACHE": str(cache)} if cache else {})


@dataclass(frozen=True)
class Half:
    """One side of the comparison: where its code is, where its runs lie, how it is run.

    Attributes:
        side: ``before`` or ``after``.
        checkout: the code.
        work: holds the runs of both sides; those of other code have other folders.
        data: the folder of the shared images, or None.
        threads: CPU threads of a command.
    """

    side: str
    checkout: Checkout
    work: Path
    data: Path | None
    threads: int

    @cached_property
    def folder(self) -> Path:
        return self.work / f"{self.side}-{self.checkout.sources()}"

    def gkd(self, words: Sequence[str], cwd: Path) -> str:
        """What a verb of gkd prints; Failed where it does not end with 0."""
        return self.call([self.checkout.gkd, *words], cwd)

    def call(self, command: Sequence[str], cwd: Path, *, ends: Sequence[int] = (0,)) -> str:
        """What a command prints, with this side's threads and cache."""
        env = environment(self.threads, self.folder / "cache")
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
        if done.returncode not in ends:
            shown = " ".join([Path(command[0]).name, *command[1:]])
            raise Failed(f"{shown} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout


class Record:
    """The result file: a key a part, in it both sides with the cells that are finished."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.content: dict[str, Any] = json.loads(path.read_text()) if path and path.is_file() else {}

    def save(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside = self.path.with_name(f".{self.path.name}.tmp")
            aside.write_text(json.dumps(self.content, indent=1) + "\n")
            aside.replace(self.path)

    def side(self, part: str, half: Half, more: Sequence[str] = ()) -> dict[str, Any]:
        """What is recorded of a side, emptied where it was measured of other code, elsewhere or otherwise."""
        facts = {
            "commit": half.checkout.commit,
            "gkd": half.checkout.version,
            "sources": half.checkout.sources(*more),
            "environment": half.checkout.environment,
            "threads": half.threads,
        }
        sides = self.content.setdefault(part, {})
        held: dict[str, Any] = sides.get(half.side, {})
        if any(held.get(key) != facts[key] for key in ("sources", "environment", "threads")):
            if held.get("cells"):
                print(f"{part}: what was recorded {half.side} is of other code or another machine; anew")
            held = {"cells": {}}
        sides[half.side] = {**facts, "cells": held["cells"]}
        found: dict[str, Any] = sides[half.side]
        return found

    def cells(self, part: str, side: str) -> dict[str, Cell]:
        """The finished cells of a side, none where there are none."""
        found: dict[str, Cell] = self.content.get(part, {}).get(side, {}).get("cells", {})
        return found


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Where two results differ, as dotted paths with the values where these are short; times may differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        found = []
        for key in dict.fromkeys([*before, *after]):
            if key in PASSING:
                continue
            where = f"{path}.{key}" if path else str(key)
            if key not in before or key not in after:
                found.append(f"{where}: only {'after' if key not in before else 'before'}")
            else:
                found += differences(before[key], after[key], where)
        return found
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for place, pair in pairs for line in differences(*pair, f"{path}.{place}")]
    # NaN is what it was; True is not 1.
    if type(before) is type(after) and (before == after or (before != before and after != after)):
        return []
    shown = [str(value) for value in (before, after)]
    return [f"{path}: {shown[0]}, then {shown[1]}" if max(map(len, shown)) <= 60 else path]


def without_passing(node: Any) -> Any:
    """JSON without what two runs of the same code differ in."""
    if isinstance(node, Mapping):
        return {key: without_passing(value) for key, value in node.items() if key not in PASSING}
    return [without_passing(value) for value in node] if isinstance(node, list) else node
