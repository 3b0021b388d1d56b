"""The step of ``auto`` beside the student's alone, SP's and KD's: WRN-40-2 to WRN-16-1, batches of 128 of 32x32.

Steps as a run takes them, on digits and their turns brought to 32 pixels: the teacher's forward, the student's forward
and backward, losses, SGD. All methods take a step in turn, round after round, in one process; the numbers are medians.
``× sp`` is the ratio to a step of SP.

    python benchmarks/method_steps.py --out benchmarks/results/method_steps.json && python docs/embed.py
"""

from __future__ import annotations

import statistics
import sys

from _measure import Cell, arguments, facts, in_fresh_process, write

from gkd.config.load import load
from gkd.core.memory import keep_freed_memory
from gkd.experiment.prepare import prepare
from gkd.experiment.teachers import random_teacher
from gkd.training.caches import Caches
from gkd.training.loop import one_step
from gkd.training.stage_run import Position

ALLOWED = 1.15  # times a step of SP
METHODS = ("student", "kd", "sp", "auto")
SHIFTS = {0: "same", 20: "disjoint"}
CONFIG = (
    "data.image_size=32", "data.channels=3", "data.batch_size=128", "data.per_class=100", "run.precision=auto",
    "student.network=wrn_16_1", "teacher.network=wrn_40_2",
)  # fmt: skip


def steps(shift: int, rounds: int) -> Cell:
    """Median seconds of every method's step."""
    keep_freed_memory()
    caches, made = Caches(), {}
    for method in METHODS:
        if method == "kd" and SHIFTS[shift] == "disjoint":
            continue
        prepared = prepare(
            load("quickstart", [*CONFIG, f"method={method}", f"task.shift={shift}"]), caches=caches
        )
        made[method] = (
            prepared,
            random_teacher(prepared) if prepared.experiment.method.needs_teacher else None,
        )
    taken: dict[str, list[float]] = {method: [] for method in made}
    for number in range(rounds + 1):
        for method, (prepared, teacher) in made.items():
            ((name, stage),) = prepared.experiment.method.stages.items()
            position = Position(stage=0)
            tried = one_step(
                name, stage, prepared.student, teacher, prepared.problem, prepared.settings, position
            )
            if number:  # a round warms up
                taken[method].append(tried.seconds)
    seconds = {method: statistics.median(times) for method, times in taken.items()}
    dtype = str(made["sp"][0].settings.dtype).removeprefix("torch.")
    return {"relation": SHIFTS[shift], "dtype": dtype, "rounds": rounds, "seconds": seconds}


def table(cells: list[Cell]) -> str:
    lines = ["| relation | method | step | × sp |", "|---|---|--:|--:|"]
    for cell in cells:
        for method, seconds in cell["seconds"].items():
            ratio = seconds / cell["seconds"]["sp"]
            lines.append(f"| {cell['relation']} | {method} | {1e3 * seconds:.1f} ms | {ratio:.2f} |")
    dearest = max(cell["seconds"]["auto"] / cell["seconds"]["sp"] for cell in cells)
    lines.append(
        f"\nauto costs {dearest:.2f} of a step of SP at most; at most {ALLOWED} is wanted. {cells[0]['dtype']}."
    )
    return "\n".join(lines)


def main() -> int:
    args = arguments(__doc__).parse_args()
    cells = [in_fresh_process(steps, shift, args.repeats, threads=args.threads) for shift in SHIFTS]
    print(table(cells))
    if args.out:
        write({**facts(args), "cells": cells}, table(cells), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
