"""How a case ends: four outcomes, and what was done and seen in a line."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from gkd.core.errors import UserError
from tests.faults.commands import Ended
from tests.faults.snapshot import differences, snapshot, unvouched


class Outcome(StrEnum):
    """What became of a fault; each kind says in its docstring what the four mean there."""

    SURVIVED = "survived"
    LOST = "lost"
    DIFFERENT = "silently different"
    TRACEBACK = "traceback"


@dataclass(frozen=True)
class Verdict:
    """The outcome of a case.

    Attributes:
        outcome: one of the four.
        told: the fault, and what was seen where the case failed.
    """

    outcome: Outcome
    told: str

    @property
    def failed(self) -> bool:
        return self.outcome is not Outcome.SURVIVED


def survived(fault: str) -> Verdict:
    return Verdict(Outcome.SURVIVED, fault)


def judged_by_ending(fault: str, ended: Ended, *, allowed: tuple[int, ...] = (0, 2)) -> Verdict | None:
    """The verdict on a command that ended as none should; None where it ended well or in a sentence.

    Args:
        fault: what was done to it.
        ended: the command.
        allowed: the exit codes that are no failure. Another one is a traceback where anything says so, else a loss.
    """
    if ended.traceback:
        return Verdict(Outcome.TRACEBACK, f"{fault}: {ended.last_line}")
    if ended.code is None:
        return Verdict(Outcome.LOST, f"{fault}: still running after {ended.seconds:.0f} s")
    if ended.code not in allowed:
        return Verdict(Outcome.LOST, f"{fault}: ended with {ended.code}: {ended.last_line}")
    if ended.code == 2 and not ended.in_a_sentence:
        return Verdict(Outcome.TRACEBACK, f"{fault}: ended with 2 and no sentence: {ended.last_line}")
    return None


def judged_by_results(fault: str, ended: Ended, expected: dict[str, Any], folder: Path) -> Verdict:
    """The verdict on a command that should have ended with the results of an undisturbed one.

    Args:
        fault: what was done before.
        ended: the command.
        expected: the `snapshot` of the undisturbed one.
        folder: where it ran.
    """
    wrong = judged_by_ending(f"{fault}; then", ended, allowed=(0,))
    if wrong is not None:
        return wrong
    try:
        differs = differences(expected, snapshot(folder)) or unvouched(folder)
    except (UserError, ValueError) as error:  # a file that cannot be read, and exit code 0
        differs = str(error)
    return Verdict(Outcome.DIFFERENT, f"{fault}; then {differs}") if differs else survived(fault)
