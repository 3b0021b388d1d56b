"""What was tried, a line a case, so that an interrupted series goes on; and the table of it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tests.faults.verdict import Outcome

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "faults.json"


@dataclass(frozen=True)
class Case:
    """A case that was tried.

    Attributes:
        kind, number: which one; the number is its seed.
        outcome: a value of `Outcome`.
        told: the fault, and what was seen.
        seconds: how long it took.
    """

    kind: str
    number: int
    outcome: str
    told: str
    seconds: float

    @property
    def failed(self) -> bool:
        return self.outcome != Outcome.SURVIVED

    @property
    def repeat(self) -> str:
        """The command that tries it alone."""
        return f"python -m tests.faults {self.kind} --only {self.number}"


class Ledger:
    """The cases that were tried of the code as it is; those of other code are forgotten.

    Args:
        folder: of its files, one a kind.
        code: a checksum of what the cases depend on.
    """

    def __init__(self, folder: Path, code: str) -> None:
        self.folder, self.code = folder, code
        folder.mkdir(parents=True, exist_ok=True)

    def cases(self, kind: str) -> dict[int, Case]:
        """Number -> case; a line that a stop left half-written is left out."""
        found: dict[int, Case] = {}
        path = self._path(kind)
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                case = Case(**json.loads(line))
            except (ValueError, TypeError):
                continue
            found[case.number] = case
        return found

    def add(self, case: Case) -> None:
        with self._path(case.kind).open("a") as file:
            file.write(json.dumps(asdict(case)) + "\n")

    def _path(self, kind: str) -> Path:
        return self.folder / f"{kind}-{self.code[:12]}.jsonl"


def code_checksum() -> str:
    """SHA-256 over the files that cases depend on: the library, its tasks and configs, and the faults."""
    digest = hashlib.sha256()
    for part in ("gkd", "tasks", "configs", "tests/faults", "tests/losses"):
        for path in sorted((ROOT / part).rglob("*")):
            if path.suffix in (".py", ".yaml", ".txt", ".json") and path.name != "test_kinds.py":
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def counts(cases: Sequence[Case]) -> dict[str, int]:
    """How many were tried, and how many ended in which outcome."""
    ended = {outcome.value: sum(case.outcome == outcome for case in cases) for outcome in Outcome}
    return {"tried": len(cases), **ended}


def table(cases: Mapping[str, Sequence[Case]]) -> str:
    """A row a kind, and one of all, as Markdown."""
    head = ["kind", "tried", *(outcome.value for outcome in Outcome), "minutes"]
    everything = [case for of_kind in cases.values() for case in of_kind]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for name, of_kind in [*cases.items(), ("all", everything)]:
        minutes = sum(case.seconds for case in of_kind) / 60
        row = [name.replace("_", " "), *map(str, counts(of_kind).values()), f"{minutes:.1f}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def write_results(cases: Mapping[str, Sequence[Case]], path: Path = RESULTS) -> None:
    """Write the counts and what failed as JSON, and the table beside it as Markdown."""
    failed = [
        {**asdict(case), "repeat": case.repeat}
        for of_kind in cases.values()
        for case in of_kind
        if case.failed
    ]
    content: dict[str, Any] = {
        "command": "make faults",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "code": code_checksum(),
        "kinds": {name: counts(of_kind) for name, of_kind in cases.items()},
        "failed": failed,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(cases) + "\n")
