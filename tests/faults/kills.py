"""Kills at any moment of a run, by the processor's time, so that a busy machine changes nothing.

Survived: the same command ends with the bits and numbers of an undisturbed run. Lost: it does not end, or refuses to go
on. Silently different: it ends with other bits or numbers. Traceback: an exception comes through.
"""

from __future__ import annotations

import signal

from tests.faults.verdict import Verdict, judged_by_ending, judged_by_results
from tests.faults.workshop import Workshop, seeded
from tests.processes import command_line

COUNT = 200


def killed(cpu_seconds: float, *words: str) -> int:
    """``gkd WORDS``, which dies without warning after so much of the processor's time."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process, as SIGKILL does
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    code = command_line(*words)
    signal.setitimer(signal.ITIMER_PROF, 0)
    return code


def try_one(number: int, workshop: Workshop) -> Verdict:
    """One kill or two, and the command again."""
    random = seeded("kills", number)
    reference = workshop.turn(number)
    moments = [random.random() for _ in range(random.choice((1, 1, 1, 2)))]
    shown = " and ".join(f"{100 * moment:.0f} %" for moment in moments)
    told = f"{reference.name}: killed at {shown} of {reference.cpu_seconds:.2f} CPU seconds"
    with workshop.folder() as folder:
        reference.scenario.write(folder)
        words = reference.scenario.words
        for moment in moments:
            ended = workshop.command(folder, moment * reference.cpu_seconds, *words, body=killed)
            wrong = judged_by_ending(told, ended, allowed=(0, -signal.SIGPROF))
            if wrong is not None:
                return wrong
        return judged_by_results(told, workshop.command(folder, *words), reference.results, folder)
