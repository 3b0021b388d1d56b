"""Crashes at single operations on files: an error of the operating system, or the death of the process.

Survived: the command ends well, with the bits and numbers of an undisturbed run, or in a sentence with exit code 2, or
dies where it must; repeated without the fault, it goes on from what was saved and ends with those bits and numbers.
Lost: repeating it does not end so, or begins anew. Silently different: it ends, with other bits or numbers. Traceback:
an exception comes through, then or later.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.faults.file_operations import ERRORS, READING
from tests.faults.verdict import Verdict, judged_by_ending, judged_by_results
from tests.faults.workshop import DIED, Workshop, crashing, repeated, seeded

COUNT = 200


def by_likeness(operations: Sequence[str]) -> dict[str, list[int]]:
    """Places of operations by what is done to which file, whatever its number: rare ones are tried as often."""
    places: dict[str, list[int]] = {}
    for place, operation in enumerate(operations):
        kind, _, name = operation.partition(" ")
        places.setdefault(f"{kind} {re.sub('[0-9a-f]{8,}|[0-9]+', 'N', name)}", []).append(place)
    return places


def try_one(number: int, workshop: Workshop) -> Verdict:
    """A fault at one operation of a scenario's command, and the command again."""
    random = seeded("crashes", number)
    reference = workshop.turn(number)
    alike = by_likeness(reference.operations)
    place = random.choice(alike[random.choice(list(alike))])
    operation = reference.operations[place]
    possible = [
        fault for fault in workshop.faults if fault != "no space" or operation.split()[0] not in READING
    ]
    fault = random.choice(possible)
    told = f"{reference.name}: {fault} at operation {place} ({operation})"
    with workshop.folder() as folder:
        reference.scenario.write(folder)
        words = reference.scenario.words
        ended = workshop.command(folder, place, fault, *words, body=crashing)
        wrong = judged_by_ending(told, ended, allowed=(0, 2) if fault in ERRORS else (DIED,))
        if wrong is None and ended.code == 0:
            wrong = judged_by_results(told, ended, reference.results, folder)
        if wrong is not None and wrong.failed:
            return wrong
        return repeated(told, reference, folder, workshop)
