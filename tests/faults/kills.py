"""Kills at any moment of a run, by the processor's time, so that a busy machine changes nothing.

Survived: the same command goes on from what was saved, and ends with the bits and numbers of an undisturbed run. Lost:
it does not end, refuses to go on, or begins anew. Silently different: it ends with other bits or numbers. Traceback: an
exception comes through.
"""

from __future__ import annotations

import signal

from tests.faults.verdict import Verdict, judged_by_ending
from tests.faults.workshop import Workshop, repeated, seeded
from tests.processes import command_line

COUNT = 200
DIED = -signal.SIGPROF
EARLIER = 0.9  # where it had ended by then: it does not take quite the same time each time


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
    seconds = workshop.cpu_seconds(reference)
    first = random.random()
    rest = random.choice(([], [], [], [random.random() * (1 - first)]))  # a second one in what is left
    while True:
        shown = " and ".join(f"{100 * moment:.0f} %" for moment in (first, *rest))
        told = f"{reference.name}: killed at {shown} of {seconds:.2f} CPU seconds"
        with workshop.folder() as folder:
            reference.scenario.write(folder)
            for moment in (first, *rest):
                ended = workshop.command(folder, moment * seconds, *reference.scenario.words, body=killed)
                wrong = judged_by_ending(told, ended, allowed=(0, DIED))
                if wrong is not None:
                    return wrong
                if ended.code == 0:
                    break
            if ended.code == DIED or moment is not first:
                return repeated(told, reference, folder, workshop)
        first *= EARLIER
