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
from tests.faults.verdict import Outcome, Verdict, judged_by_results
from tests.processes import command_line

MEASURED = "measured.json"
DIED = -signal.SIGKILL  # the exit code of a process that died of a fault
NOT_MADE = 78  # an exit code that gkd has no use for: the operation that was to fail was not reached


def listed(*words: str) -> int:
    """``gkd WORDS``, and beside it a list of its operations on files."""
    with watched(operations := Operations()):
        code = command_line(*words)
    Path(MEASURED).write_text(json.dumps(operations.made))
    return code


def timed(*words: str) -> int:
    """``gkd WORDS``, and beside it the seconds of the processor that it took (listing operations takes some too)."""
    began = time.process_time()
    code = command_line(*words)
    Path(MEASURED).write_text(json.dumps(time.process_time() - began))
    return code


def crashing(number: int, fault: str, *words: str) -> int:
    """``gkd WORDS`` with a fault at the operation of a number; `NOT_MADE` where it makes fewer."""
    with watched(operations := Operations(number, fault)):
        code = command_line(*words)
    return code if len(operations.made) > number else NOT_MADE


@dataclass(frozen=True)
class Reference:
    """A scenario's undisturbed run.

    Attributes:
        name: the scenario's.
        scenario: what was run.
        folder: with all its files.
        operations: its operations on files, in order, each ``operation file``.
        results: its `snapshot`.
        out: what it printed.
    """

    name: str
    scenario: Scenario
    folder: Path
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
    _seconds: dict[str, float] = field(default_factory=dict)
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
            ended = self.command(folder, *scenario.words, body=listed)
            assert ended.code == 0, f"{name} fails undisturbed: {ended.err}"
            operations = json.loads((folder / MEASURED).read_text())
            (folder / MEASURED).unlink()
            results = snapshot(folder)
            self._references[name] = Reference(name, scenario, folder, tuple(operations), results, ended.out)
        return self._references[name]

    def cpu_seconds(self, reference: Reference) -> float:
        """How long a scenario's command takes the processor."""
        if reference.name not in self._seconds:
            with self.folder() as folder:
                reference.scenario.write(folder)
                ended = self.command(folder, *reference.scenario.words, body=timed)
                assert ended.code == 0, f"{reference.name} fails undisturbed: {ended.err}"
                self._seconds[reference.name] = json.loads((folder / MEASURED).read_text())
        return self._seconds[reference.name]

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


def repeated(told: str, reference: Reference, folder: Path, workshop: Workshop) -> Verdict:
    """The verdict on a command that was stopped, repeated: it ends as an undisturbed one, and begins nothing anew.

    Args:
        told: how it was stopped.
        reference: the undisturbed run.
        folder: where it was stopped.
        workshop: runs it again.
    """
    begun = [path.parents[2] for path in folder.rglob("checkpoints/[0-9]*/manifest.json")]
    unfinished = sorted({run for run in begun if not (run / "summary.json").is_file()})
    ended = workshop.command(folder, *reference.scenario.words)
    verdict = judged_by_results(told, ended, reference.results, folder)
    for run in unfinished:
        if not verdict.failed and f"continued from {run.relative_to(folder)}/" not in ended.out:
            return Verdict(Outcome.LOST, f"{told}; then {run.relative_to(folder)} was begun anew")
    return verdict


def seeded(kind: str, number: int) -> random.Random:
    """The generator of a case: the same number is the same fault."""
    return random.Random(f"{kind} {number}")
