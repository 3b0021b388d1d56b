"""What keeping freed memory is worth on a CPU: steps of training and passes of teachers, with and without.

``gkd`` tells glibc to keep what tensors free (``gkd.core.memory.keep_freed_memory``). Each measurement has a fresh
process, with and without in turn; × is the ratio of the medians, and the values that both end with are compared bit by
bit. Peak is of the whole process.

    python benchmarks/freed_memory.py --out benchmarks/results/freed_memory.json && python docs/embed.py
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from _measure import Cell, arguments, facts, in_fresh_process, peak_bytes, write
from torch.nn import functional as F

from gkd.core.memory import keep_freed_memory
from gkd.models import build_network
from gkd.training.device import choose_dtype

CPU = torch.device("cpu")
# What is done, with which network, on how many images of how many pixels.
CASES = (
    ("a step of training", "wrn_16_1", 128, 32),
    ("a step of training", "wrn_16_2", 128, 32),
    ("a step of training", "resnet8x4", 64, 32),
    ("a teacher's pass", "wrn_40_2", 128, 32),
    ("a teacher's pass", "timm/tf_efficientnet_lite0", 500, 96),
)


def timed(what: str, name: str, images: int, pixels: int, kept: bool, rounds: int) -> Cell:
    """The median seconds of a step, the peak of the process, and the last value as bits."""
    if kept:
        keep_freed_memory()
    torch.manual_seed(0)
    network = build_network(name, num_classes=100).to(memory_format=torch.channels_last)
    batch = torch.randn(images, 3, pixels, pixels).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(images) % 100
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    dtype, seconds, trains = choose_dtype("auto", CPU), [], what == "a step of training"
    network.train(trains)
    for _ in range(rounds + 2):
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=dtype), torch.set_grad_enabled(trains):
            value = F.cross_entropy(network(batch), labels)
        if trains:
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds[2:]),
        "peak": peak_bytes(CPU),
        "bits": value.item().hex(),
        "dtype": str(dtype).removeprefix("torch."),
    }


def compared(what: str, name: str, images: int, pixels: int, rounds: int, pairs: int, threads: int) -> Cell:
    """Medians over pairs of processes, with and without in turn."""
    cells: dict[bool, list[Cell]] = {False: [], True: []}
    for _ in range(pairs):
        for kept, measured in cells.items():
            case = (what, name, images, pixels, kept, rounds)
            measured.append(in_fresh_process(timed, *case, threads=threads))
    seconds = {kept: statistics.median(cell["seconds"] for cell in each) for kept, each in cells.items()}
    peak = {kept: max(cell["peak"] for cell in each) for kept, each in cells.items()}
    return {
        "what": what, "network": name, "images": images, "pixels": pixels, "dtype": cells[True][0]["dtype"],
        "seconds_without": seconds[False], "seconds_with": seconds[True], "times": seconds[False] / seconds[True],
        "peak_without": peak[False], "peak_with": peak[True],
        "equal": len({cell["bits"] for each in cells.values() for cell in each}) == 1,
    }  # fmt: skip


def table(cells: list[Cell]) -> str:
    lines = [
        "| what | network | images | without | with | × | peak without, with | same bits |",
        "|---|---|---|--:|--:|--:|--:|---|",
    ]
    for cell in cells:
        seconds = [f"{1e3 * cell[f'seconds_{side}']:.0f} ms" for side in ("without", "with")]
        peaks = ", ".join(f"{cell[f'peak_{side}'] / 2**30:.2f}" for side in ("without", "with"))
        lines.append(
            f"| {cell['what']} | {cell['network']} | {cell['images']} of {cell['pixels']}² | {' | '.join(seconds)} "
            f"| {cell['times']:.2f} | {peaks} GiB | {'yes' if cell['equal'] else 'no'} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=3, help="processes of each kind (default 3)")
    args = parser.parse_args()
    cells = []
    for case in CASES:
        cells.append(compared(*case, rounds=args.repeats, pairs=args.pairs, threads=args.threads))
        print(table(cells[-1:]).splitlines()[-1], flush=True)
    if args.out:
        write({**facts(args), "cells": cells}, table(cells), args.out)
    return 0 if all(cell["equal"] for cell in cells) else 1


if __name__ == "__main__":
    sys.exit(main())
