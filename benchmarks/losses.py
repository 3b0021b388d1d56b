"""Time and peak memory of every loss, forward and backward, beside plain forms and beside a training step.

Every loss of ``gkd.losses.LOSSES``, at the outputs that a method reads of a resnet32x4 teacher and a resnet8x4 student
(images of 32x32, 100 classes, a training set of 50,000); the plain forms of ``_loss_forms.py``, whose values must be
gkd's; what each loss adds to a step at B = 64 and, where that is above 5 %, the floor of its formula.

Each cell runs in a fresh process: the time is the median of several runs after a warm-up, the memory the growth of the
peak from just before them (resident set on CPU, allocations on CUDA). Plain forms that would take over 20 seconds or
6 GiB are left out and say so.

    python benchmarks/losses.py --out benchmarks/results/losses.json && python docs/embed.py
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from _loss_floors import FLOORS
from _loss_forms import FORMS, Form
from _loss_inputs import (
    MAPS,
    SAMPLES,
    WIDTH,
    check_readings,
    evaluate,
    random_inputs,
    readings,
    trained,
)
from _loss_inputs import arguments as loss_arguments
from _loss_inputs import build as build_loss
from _loss_step import steps
from _measure import (
    SLOW_SECONDS,
    Cell,
    arguments,
    facts,
    in_fresh_process,
    measure,
    show,
    teach_allocator,
    write,
)
from torch import Tensor

from gkd.losses import LOSSES
from gkd.training.device import choose_device

SIZES = (64, 128, 256, 512, 1024)
STEP_BATCH = 64
QUICK = 4  # the batch of a trial run
NARROW = 128  # width of the embedding of the second row of rkd_angle, the usual one in metric learning
LONGEST_SECONDS, LARGEST_GIB = 20.0, 6.0
BUDGET_SECONDS = 2.0  # of timed runs a cell, once three are timed
AGREEMENT = 1e-4
SHARE_WITH_FLOOR = 0.05

Calls = list[Callable[..., Tensor]]


def check_agreement(loss: str, form: Form, width: int, device: torch.device) -> None:
    """Refuses a form whose value, in float64 on a small batch, is not gkd's."""
    inputs = random_inputs(loss, form.small, device, width)
    tensors = [
        [t.double() if t.is_floating_point() else t for t in read] for read in loss_arguments(loss, inputs)
    ]
    ours = [
        call.double() if isinstance(call, torch.nn.Module) else call
        for call in build_loss(loss, width, device)
    ]
    theirs: list[Any] = [form.make(call) for call in ours]
    drawn = {"drawn": theirs[0].draw(inputs.index)} if form.draws else {}
    for call, other, read in zip(ours, theirs, tensors, strict=True):
        wanted, value = (float(way(*read, **drawn).detach()) for way in (call, other))
        if not abs(wanted - value) <= AGREEMENT * abs(wanted):
            raise AssertionError(f"{loss}: the plain form gives {value}, gkd {wanted}.")


def measure_cell(loss: str, form: str, batch: int, width: int, repeats: int, device_name: str) -> Cell:
    """One cell, in this process: call it in a fresh one. ``form``: gkd, floor or one of ``FORMS[loss]``."""
    device = torch.device(device_name)
    teach_allocator()
    calls: Calls = build_loss(loss, width, device)
    if form in FORMS.get(loss, {}):
        check_agreement(loss, FORMS[loss][form], width, device)
        calls = [FORMS[loss][form].make(call) for call in calls]
    parameters = trained(calls)

    def runs(size: int) -> Callable[[], Tensor | None]:
        inputs = random_inputs(loss, size, device, width)
        tensors = loss_arguments(loss, inputs)

        def run() -> Tensor | None:
            for leaf in (*inputs.leaves, *parameters):
                leaf.grad = None
            if form == "floor":
                for call, read in zip(calls, tensors, strict=True):
                    FLOORS[loss].run(call, *read)
                return None
            value = evaluate(calls, tensors)
            value.backward()
            return value

        return run

    small = runs(2)
    for _ in range(3):
        small()  # libraries load before the memory is looked at
    del small
    # The ratios that are asked for stand at the step's batch: there even a slow form is run several times.
    slow = math.inf if batch <= STEP_BATCH else SLOW_SECONDS
    return measure(runs(batch), repeats, device, budget=BUDGET_SECONDS, slow=slow)


def why_skipped(form: Form, batch: int, width: int, before: list[Cell]) -> str | None:
    """The reason why a plain form is not run, from its formula and the cells of smaller batches."""
    gib = form.needs_bytes(batch, width) / 2**30
    if gib > LARGEST_GIB:
        return f"needs {gib:.0f} GiB"
    if not before:
        return None
    if "seconds" not in before[-1]:
        return "as before"
    seconds = before[-1]["seconds"] * (batch / before[-1]["batch"]) ** form.growth
    return f"would take {seconds:.0f} s" if seconds > LONGEST_SECONDS else None


def rows() -> list[tuple[str, str, int]]:
    """The table's rows: loss, form, width of the embedding."""
    found = []
    for loss in LOSSES:
        for width in (WIDTH, NARROW) if loss == "rkd_angle" else (WIDTH,):
            found += [(loss, form, width) for form in ("gkd", *FORMS.get(loss, {}))]
    return found


def cells(args: argparse.Namespace) -> list[Cell]:
    """All cells of the table, and the floors at the step's batch."""
    done: list[Cell] = []
    floors = [(loss, "floor", WIDTH) for loss in LOSSES if loss in FLOORS]
    for loss, form, width in [*rows(), *floors]:
        before: list[Cell] = []
        for batch in [args.step_batch] if form == "floor" else args.sizes:
            plain = FORMS.get(loss, {}).get(form)
            reason = why_skipped(plain, batch, width, before) if plain else None
            task = (measure_cell, loss, form, batch, width, args.repeats, args.device)
            measured = {"skipped": reason} if reason else _measured(args, *task)
            before.append({"loss": loss, "form": form, "width": width, "batch": batch, **measured})
            print(f"{loss} {form} D={width} B={batch}: {show(measured)}", file=sys.stderr)
        done += before
    return done


def _measured(args: argparse.Namespace, function: Callable[..., Cell], *more: Any) -> Cell:
    """A cell from a fresh process; a trial only shows that everything runs, for which this one will do."""
    return function(*more) if args.quick else in_fresh_process(function, *more, threads=args.threads)


def run(args: argparse.Namespace) -> dict[str, Any]:
    start = time.monotonic()
    measured = cells(args)
    print("steps ...", file=sys.stderr)
    step = _measured(args, steps, args.step_batch, args.rounds, args.device)
    result = {
        **facts(args),
        "device": args.device,
        "maps": MAPS,
        "readings": {loss: readings(loss) for loss in LOSSES},
        "samples": SAMPLES,
        "sizes": args.sizes,
        "repeats": args.repeats,
        "quick": args.quick,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "floors": {loss: floor.says for loss, floor in FLOORS.items()},
        "cells": measured,
        "step": step,
        "largest_relative_difference": largest_difference(measured),
    }
    return result | {"wanted": wanted(result)}


def by_key(measured: list[Cell]) -> dict[tuple[str, str, int, int], Cell]:
    return {(cell["loss"], cell["form"], cell["width"], cell["batch"]): cell for cell in measured}


def largest_difference(measured: list[Cell]) -> float:
    """Between gkd's value and the plain forms', relative, over all cells of the same inputs and draws."""
    found, differences = by_key(measured), [0.0]
    for (loss, form, width, batch), cell in found.items():
        plain = FORMS.get(loss, {}).get(form)
        if plain and not plain.draws and "value" in cell:
            ours = found[loss, "gkd", width, batch]["value"]
            differences.append(abs(cell["value"] - ours) / max(abs(ours), 1e-12))
    return max(differences)


def wanted(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What the losses are asked for, and what was measured; no line where a cell is missing."""
    found = by_key(result["cells"])

    def number(loss: str, form: str, width: int, batch: int, what: str) -> float:
        return float(found.get((loss, form, width, batch), {}).get(what, "nan"))

    def faster(loss: str, form: str, width: int, batch: int) -> float:
        return number(loss, form, width, batch, "seconds") / number(loss, "gkd", width, batch, "seconds")

    lines = [
        ("nst: broadcast ÷ gkd at B = 64, at least", 20.0, faster("nst", "broadcast", WIDTH, 64)),
        ("fsp: broadcast ÷ gkd at B = 64, at least", 10.0, faster("fsp", "broadcast", WIDTH, 64)),
        ("rkd_angle: B³ ÷ gkd at B = 256, D = 256, at least", 1.0, faster("rkd_angle", "B³", WIDTH, 256)),
        ("rkd_angle: B³ ÷ gkd at B = 256, D = 128, at least", 1.0, faster("rkd_angle", "B³", NARROW, 256)),
    ]
    peak = number("rkd_angle", "gkd", NARROW, 1024, "extra_bytes") / 1e9
    peak_line = ("rkd_angle: peak at B = 1024, D = 128 in GB, below", 1.5, peak)
    checked = [(*line, line[2] >= line[1]) for line in lines] + [(*peak_line, peak < peak_line[1])]
    names = ("what", "limit", "measured", "reached")
    return [dict(zip(names, line, strict=True)) for line in checked if not math.isnan(line[2])]


def without_floor(result: dict[str, Any]) -> list[str]:
    """The losses that add so much to a step that their floor is asked for, and have none."""
    return [
        loss
        for loss, share in result["step"]["share"].items()
        if share > SHARE_WITH_FLOOR and loss not in FLOORS
    ]


def bare_spread(step: Cell) -> str:
    low, high = step["bare_quartiles"]
    return f"half of them from {1e3 * low:.0f} to {1e3 * high:.0f}"


def table(result: dict[str, Any]) -> str:
    """Markdown: one line for a loss and each of its plain forms, with the ratios to gkd."""
    found, sizes, step = by_key(result["cells"]), result["sizes"], result["step"]
    heads = ["loss", "form", *(f"B = {size}" for size in sizes)]
    heads += [f"adds to a step at B = {step['batch']}", "floor of its formula"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * 2 + "|--:" * (len(sizes) + 1) + "|---|"]
    for loss, form, width in rows():
        line = [f"{loss}, D = {width}" if width != WIDTH else loss, form]
        for size in sizes:
            cell, ours = found[loss, form, width, size], found[loss, "gkd", width, size]
            timed = form != "gkd" and "seconds" in cell and "seconds" in ours
            line.append(show(cell) + (f", {cell['seconds'] / ours['seconds']:.1f} ×" if timed else ""))
        share = step["share"][loss]
        if form != "gkd" or width != WIDTH:
            line += ["", ""]
        elif share <= SHARE_WITH_FLOOR or loss not in FLOORS:
            line += [f"{100 * share:.1f} %", ""]
        else:
            floor = found[loss, "floor", WIDTH, step["batch"]]["seconds"] / step["bare_seconds"]
            line += [f"{100 * share:.1f} %", f"{100 * floor:.1f} %: {FLOORS[loss].says}"]
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only B = {QUICK}, to see that it runs")
    parser.add_argument("--rounds", type=int, default=9, help="timed steps with each loss (default 9)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()
    check_readings()
    args.device = str(choose_device(args.device))
    args.sizes = [QUICK] if args.quick else list(SIZES)
    args.step_batch = QUICK if args.quick else STEP_BATCH
    result = run(args)
    print(table(result))
    step = result["step"]
    print(f"\nA bare step: {1e3 * step['bare_seconds']:.0f} ms ({bare_spread(step)}) in {step['dtype']}.")
    print(
        f"Largest relative difference between the values in float32: {result['largest_relative_difference']:.1e}."
    )
    for line in result["wanted"]:
        print(
            f"{line['what']} {line['limit']:g}: {line['measured']:.2f}{'' if line['reached'] else ', missed'}"
        )
    if args.out:
        write(result, table(result), args.out)
    lacking = [] if args.quick else without_floor(result)
    if lacking:
        print(
            f"These add over 5 % to a step and have no floor in _loss_floors.py: {lacking}.", file=sys.stderr
        )
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
