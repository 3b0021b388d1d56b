"""Where faults are tried: a folder with the undisturbed runs that every case is compared with."""

from __future__ import annotations

import json
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.commands import Ended, in_a_process
from tests.faults.file_operations import FAULTS, Operations, watched
from tests.faults.scenarios import ALONE, SCENARIOS, Scenario
from tests.faults.snapshot import snapshot
from tests.processes import command_line

MEASURED = "measured.json"
DIED = -signal.SIGKILL  # the exit code of a process that died of a fault


def measured(*words: str) -> int:
    """``gkd WORDS``, and beside it what it took: CPU seconds, and its operations on files."""
    operations, began = Operations(), time.process_time()
    with watched(operations):
        code = command_line(*words)
    Path(MEASURED).write_text(json.dumps([time.process_time() - began, operations.made]))
    return code


def crashing(number: int, fault: str, *words: str) -> int:
    """``gkd WORDS`` with a fault at the operation of a number."""
    with watched(Operations(number, fault)):
        return command_line(*words)


@dataclass(frozen=True)
class Reference:
    """A scenario's undisturbed run.

    Attributes:
        name: the scenario's.
        scenario: what was run.
        folder: with all its files.
        cpu_seconds: how much of the processor it took.
        operations: its operations on files, in order, each ``operation file``.
        results: its `snapshot`.
        out: what it printed.
    """

    name: str
    scenario: Scenario
    folder: Path
    cpu_seconds: float
    operations: tuple[str, ...]
    results: dict[str, Any]
    out: str


@dataclass
class Workshop:
    """Undisturbed runs, each made when it is first asked for, and folders for cases.

    Attributes:
        root: where all of that stands.
        command: runs the command line, or another body, in a folder: in a process of its own, or in this one.
        scenarios: those that are tried in turn.
        faults: of operations on files.
        may_die: whether commands run in processes of their own.
    """

    root: Path
    command: Callable[..., Ended] = in_a_process
    scenarios: Sequence[str] = tuple(name for name in SCENARIOS if name != ALONE)
    faults: Sequence[str] = FAULTS
    may_die: bool = True
    _references: dict[str, Reference] = field(default_factory=dict)
    _halves: dict[str, Path] = field(default_factory=dict)
    _undamaged: dict[tuple[str, ...], Ended] = field(default_factory=dict)

    def turn(self, number: int) -> Reference:
        """The undisturbed run of the scenario whose turn it is."""
        return self.reference(self.scenarios[number % len(self.scenarios)])

    def reference(self, name: str) -> Reference:
        """The undisturbed run of a scenario."""
        if name not in self._references:
            scenario = SCENARIOS[name]
            folder = scenario.write(self.root / name)
            ended = self.command(folder, *scenario.words, body=measured)
            assert ended.code == 0, f"{name} fails undisturbed: {ended.err}"
            seconds, operations = json.loads((folder / MEASURED).read_text())
            (folder / MEASURED).unlink()
            results = snapshot(folder)
            self._references[name] = Reference(
                name, scenario, folder, seconds, tuple(operations), results, ended.out
            )
        return self._references[name]

    def half(self, reference: Reference) -> Path:
        """The folder of a run that died after half of its operations."""
        if reference.name not in self._halves:
            folder = reference.scenario.write(self.root / f"{reference.name} half")
            place = len(reference.operations) // 2
            ended = self.command(folder, place, "death before", *reference.scenario.words, body=crashing)
            assert ended.code == DIED, f"{reference.name} does not die: {ended.err}"
            self._halves[reference.name] = folder
        return self._halves[reference.name]

    def undamaged(self, reference: Reference, words: tuple[str, ...]) -> Ended:
        """How a command ends that reads a finished run as it is."""
        key = (reference.name, *words)
        if key not in self._undamaged:
            with self.folder() as case:
                shutil.copytree(reference.folder, case / "copy")
                ended = self.command(case / "copy", *words)
            assert ended.code == 0, f"{words} of {reference.name} fails undamaged: {ended.err}"
            self._undamaged[key] = ended
        return self._undamaged[key]

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder for one case, removed after it."""
        with tempfile.TemporaryDirectory(dir=self.root, prefix="case-") as place:
            yield Path(place)


def seeded(kind: str, number: int) -> random.Random:
    """The generator of a case: the same number is the same fault."""
    return random.Random(f"{kind} {number}")
