"""The cost of a routed training step beside the plain one of KD and beside that of its own method.

Steps of whole distillers on random images of 32x32, 100 classes: student forward and backward, teacher forward, losses,
SGD; in the precision and layout in which gkd trains here. Every step is timed in turn with all the others, in one
process; the numbers are medians. ``x kd`` is the ratio to a step of KD without routing, ``x own`` that to the same
terms without routing.

    python benchmarks/routing.py --out benchmarks/results/routing.json && python docs/embed.py
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch
from _measure import Cell, arguments, facts, in_fresh_process, wait, write

from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.distill.distiller import Distiller
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.methods.optimiser import Optimiser
from gkd.methods.routing import Routing
from gkd.methods.terms import Term
from gkd.models import build_network
from gkd.training.device import choose_device, choose_dtype

CLASSES, SAMPLES = 100, 50_000
PAIRS = (("resnet32x4", "resnet8x4"), ("wrn_40_2", "wrn_16_2"))  # teacher, student
ALLOWED = 2.2  # times a step of KD
_LAST, _THREE = {"student": -1, "teacher": -1}, {"student": [1, 2, 3], "teacher": [1, 2, 3]}
# SAKD's settings beside KD: the spots decide the cost.
METHODS: dict[str, dict[str, Any]] = {
    "kd": {},
    "fitnet": {"fitnet": {"at": {"student": 2, "teacher": 2}}},
    "at": {"at": {"at": _THREE, "weight": 1000}},
    "sp": {"sp": {"at": _LAST, "weight": 3000}},
    "rkd": {"rkd_distance": {"weight": 25}, "rkd_angle": {"weight": 50}},
    "crd": {"crd": {"weight": 0.8, "negatives": 16384}},
}


class Step:
    """A student, its teacher and the terms of a method, with routing or without."""

    def __init__(
        self, pair: tuple[str, str], method: str, routed: bool, batch: int, device: torch.device
    ) -> None:
        torch.manual_seed(0)
        space = LabelSpace([f"class{number:03d}" for number in range(CLASSES)])
        teacher, student = (build_network(name, num_classes=CLASSES) for name in pair)
        terms = {"cross_entropy": {}, "kd": {}, **METHODS[method]}
        self.device, self.dtype = device, choose_dtype("auto", device)
        self.distiller = Distiller(
            student,
            TeacherSide(
                Teacher(teacher, space, mean=(0.5,) * 3, std=(0.25,) * 3).to(
                    device, memory_format=torch.channels_last
                ),
                LabelRelation(space, space),
            ),
            {name: Term.model_validate({"loss": name, **keys}) for name, keys in terms.items()},
            image_shape=(3, 32, 32),
            train_labels=torch.arange(SAMPLES) % CLASSES,
            routing=Routing(policy="adaptive", initial_bias=0.0) if routed else None,
        ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.distiller.train()
        self.optimiser = Optimiser(lr=1e-6).build(self.distiller.param_groups())
        images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
        index = torch.arange(batch, device=device)
        self.batch = Batch(images, index % CLASSES, index, shared=True)

    def seconds(self) -> float:
        wait(self.device)
        start = time.perf_counter()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.distiller(self.batch)["loss"]
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        wait(self.device)
        return time.perf_counter() - start


def steps(pair: tuple[str, str], batch: int, rounds: int, device_name: str) -> Cell:
    """Median seconds of every method's step, plain and routed."""
    device = torch.device(device_name)
    made = {
        (method, routed): Step(pair, method, routed, batch, device)
        for method in METHODS
        for routed in (False, True)
    }
    taken: dict[tuple[str, bool], list[float]] = {key: [] for key in made}
    for number in range(rounds + 2):
        for key, step in made.items():
            seconds = step.seconds()
            if number > 1:  # two rounds warm up
                taken[key].append(seconds)
    medians = {key: statistics.median(times) for key, times in taken.items()}
    return {
        "teacher": pair[0],
        "student": pair[1],
        "batch": batch,
        "rounds": rounds,
        "dtype": str(made["kd", False].dtype).removeprefix("torch."),
        "methods": {
            method: {
                "plain_seconds": medians[method, False],
                "routed_seconds": medians[method, True],
                "times_kd": medians[method, True] / medians["kd", False],
                "times_own": medians[method, True] / medians[method, False],
            }
            for method in METHODS
        },
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        "| teacher, student | method, with KD | plain step | routed step | × kd | × own |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for cell in result["cells"]:
        for method, row in cell["methods"].items():
            lines.append(
                f"| {cell['teacher']}, {cell['student']} | {method} | {1e3 * row['plain_seconds']:.1f} ms "
                f"| {1e3 * row['routed_seconds']:.1f} ms | {row['times_kd']:.2f} | {row['times_own']:.2f} |"
            )
    dearest = max(row["times_kd"] for cell in result["cells"] for row in cell["methods"].values())
    first = result["cells"][0]
    lines.append(
        f"\nThe dearest routed step costs {dearest:.2f} of a plain one of KD; at most {ALLOWED} are wanted. Batches of "
        f"{first['batch']}, {first['dtype']}, {result['threads']} threads, {result['machine']}."
    )
    return "\n".join(lines)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=64, help="images a step (default 64)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args()
    device = str(choose_device(args.device))
    cells = []
    for pair in PAIRS:
        cell = in_fresh_process(steps, pair, args.batch, args.repeats, device, threads=args.threads)
        cells.append(cell)
        for method, row in cell["methods"].items():
            print(
                f"{pair[0]} {pair[1]} {method:8} {row['times_kd']:.2f} x kd, {row['times_own']:.2f} x own",
                flush=True,
            )
    result = {**facts(args), "device": device, "allowed": ALLOWED, "cells": cells}
    print(table(result))
    if args.out:
        write(result, table(result), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
