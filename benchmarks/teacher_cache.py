"""An epoch from kept teacher outputs beside one of the student alone, and beside one that asks the teacher.

Whole epochs of gkd's stages on random images of 32x32, 100 classes: reading the batches and the outputs, student
forward and backward, losses, SGD; in the precision and layout in which gkd trains here. All variants take their steps
in turn, so that they share whatever else the machine does; an epoch is the sum of its steps, each the median over all
epochs. ``disk`` opens its file anew in every epoch, checksum included, as a run whose every epoch is
another view does; ``disk, cold`` has its pages put out of the system's memory before. ``student`` is the cross-entropy
alone, so what a loss itself costs counts as well.

    python benchmarks/teacher_cache.py --out benchmarks/results/teacher_cache.json && python docs/embed.py
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _measure import Cell, arguments, facts, in_fresh_process, wait, write

from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import ImageSet
from gkd.distill.teacher import Teacher
from gkd.methods.method import Method
from gkd.models import build_network
from gkd.problems.problem import Problem, Source
from gkd.training.caches import Caches
from gkd.training.device import choose_device, choose_dtype
from gkd.training.settings import Settings
from gkd.training.stage_run import Position, StageRun

CLASSES = 100
PAIRS = (("wrn_40_2", "wrn_16_2"), ("resnet32x4", "resnet8x4"))  # teacher, student
ALLOWED = 1.05  # of an epoch of the student alone, for one of KD from the disk
_THREE = {"student": [1, 2, 3], "teacher": [1, 2, 3]}
METHODS: dict[str, dict[str, Any]] = {"kd": {"kd": {}}, "at": {"at": {"at": _THREE, "weight": 1000}}}
KEPT = ("live", "memory", "disk", "disk, cold")


class Epochs:
    """The epochs of one method whose teacher is asked, or its outputs kept."""

    def __init__(
        self, pair: tuple[str, str], terms: dict[str, Any], kept: str, size: int, folder: Path
    ) -> None:
        torch.manual_seed(0)
        space = LabelSpace([f"class{number:03d}" for number in range(CLASSES)])
        pixels = torch.randint(256, (size, 3, 32, 32), dtype=torch.uint8)
        images = ImageSet(pixels, torch.arange(size) % CLASSES, space)
        device = choose_device("auto")
        teacher, student = (
            build_network(name, num_classes=CLASSES).to(device, memory_format=torch.channels_last)
            for name in pair
        )
        settings = Settings(
            seed=0, batch_size=64, augment="crop-flip", mean=(0.5,) * 3, std=(0.25,) * 3, device=device,
            dtype=choose_dtype("auto", device), views=None if kept == "live" else 1, cache_bytes=2**40,
            outputs_folder=folder if "disk" in kept else None,
        )  # fmt: skip
        stage = {"epochs": 1, "terms": {"cross_entropy": {}, **terms}, "optimiser": {"lr": 1e-6}}
        method = Method.model_validate(
            {"name": "m", "paper": "ours", "summary": "", "stages": {"one": stage}}
        )
        source = Source(images, images, images)
        problem = Problem("student", LabelRelation(space, space), source, source)
        self.kept, self.folder, self.device = kept, folder, device
        self.side = Teacher(teacher, space, mean=(0.5,) * 3, std=(0.25,) * 3) if terms else None
        self.build = lambda: StageRun(
            "one", method.stages["one"], 1, student, self.side, problem,
            replace(settings, caches=Caches()), Position(),
        )  # fmt: skip
        self.run = self.build()
        self.run.distiller.train()

    def batches(self) -> Iterator[Batch]:
        return self.run.epoch_batches()

    def prepare(self) -> None:
        """Forget what is mapped, and for a cold start the file's pages too."""
        if "disk" not in self.kept:
            return
        self.run = self.build()
        self.run.distiller.train()
        if self.kept == "disk, cold" and self.folder.is_dir():
            for path in self.folder.iterdir():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def step(self, batch: Batch) -> None:
        with self.run.settings.autocast():
            loss = self.run.distiller(batch)["loss"]
        self.run.optimiser.zero_grad()
        loss.backward()
        self.run.optimiser.step()


def one_epoch(made: dict[str, Epochs]) -> dict[str, list[float]]:
    """Seconds of each step of an epoch, those of all variants in turn; the first step opens what is kept."""
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for epochs in made.values():
        epochs.prepare()
    open_batches = {name: epochs.batches() for name, epochs in made.items()}
    while True:
        for name, epochs in made.items():
            start = time.perf_counter()
            batch = next(open_batches[name], None)
            if batch is None:
                return seconds
            epochs.step(batch)
            wait(epochs.device)
            seconds[name].append(time.perf_counter() - start)


def epochs_of(pair: tuple[str, str], method: str, size: int, rounds: int) -> Cell:
    """Medians of an epoch of a method, with outputs kept in every way."""
    with tempfile.TemporaryDirectory() as scratch:
        made = {"student": Epochs(pair, {}, "memory", size, Path(scratch) / "none")}
        for kept in KEPT:
            made[kept] = Epochs(pair, METHODS[method], kept, size, Path(scratch) / kept)
        taken = [one_epoch(made) for _ in range(rounds + 1)][1:]  # the first computes the outputs
        kept_bytes = sum(path.stat().st_size for path in (Path(scratch) / "disk").iterdir())
    epoch = {
        name: sum(statistics.median(times) for times in zip(*(each[name] for each in taken), strict=True))
        for name in made
    }
    return {
        "teacher": pair[0],
        "student": pair[1],
        "method": method,
        "images": size,
        "rounds": rounds,
        "dtype": str(made["student"].run.settings.dtype).removeprefix("torch."),
        "bytes_per_image": kept_bytes / size,
        "seconds": epoch,
        "times_student": {name: epoch[name] / epoch["student"] for name in KEPT},
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        "| teacher, student | method | kept an image | student alone | × asking the teacher | × memory | × disk "
        "| × disk, cold |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for cell in result["cells"]:
        ratios = " | ".join(f"{cell['times_student'][kept]:.2f}" for kept in KEPT)
        lines.append(
            f"| {cell['teacher']}, {cell['student']} | {cell['method']} | {cell['bytes_per_image'] / 1024:.1f} KiB "
            f"| {cell['seconds']['student']:.2f} s | {ratios} |"
        )
    dearest = max(cell["times_student"]["disk"] for cell in result["cells"] if cell["method"] == "kd")
    first = result["cells"][0]
    lines.append(
        f"\nAn epoch of KD from the disk costs at most {dearest:.2f} of the student alone; {ALLOWED} is wanted. Epochs "
        f"of {first['images']} images, {first['dtype']}, {result['threads']} threads, {result['machine']}, where other "
        f"programs kept {result['load']:.1f} CPUs busy when it began."
    )
    return "\n".join(lines)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=384, help="an epoch (default 384)")
    args = parser.parse_args()
    load, cells = os.getloadavg()[0], []
    for pair in PAIRS:
        for method in METHODS:
            cell = in_fresh_process(epochs_of, pair, method, args.images, args.repeats, threads=args.threads)
            cells.append(cell)
            ratios = ", ".join(f"{name} {ratio:.3f}" for name, ratio in cell["times_student"].items())
            print(f"{pair[0]} {pair[1]} {method}: {ratios} x student", flush=True)
    result = {**facts(args), "load": load, "allowed": ALLOWED, "cells": cells}
    print(table(result))
    if args.out:
        write(result, table(result), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
