"""What an incremental step costs beside its training, and beside the loops that are published.

Herding: the exemplars of 100 classes of 500 images from embeddings of 64 numbers, chosen by
`gkd.incremental.memory` and by the plain loop, which at each pick sums the exemplars anew and takes the chosen row out,
as PyCIL's does; with images, it takes the chosen image out of an array of them too, which PyCIL's also does. All read
the same float32 embeddings in the same process and go through all classes in turn; the numbers are those of the fastest
of such rounds, which other work on the machine has disturbed least, and the choices are compared.

Bookkeeping: `gkd run incremental/tiny_imagenet_100` as it stands (10 new classes of 100 photographs, 20 epochs a step),
but for the first model, which is trained for one epoch: seconds of each later step for what is not training, which is
embedding its images, herding, the class means, the test images in four matrices and the files, against seconds of its
training, as the steps' own summaries have them.

    python benchmarks/incremental.py --out benchmarks/results/incremental.json && python docs/embed.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import Cell, arguments, facts, in_fresh_process, write

CLASSES, IMAGES, WIDTH = 100, 500, 64
COUNTS = (20, 200)  # exemplars of each class: 2000 in all at the last of 100 classes, and at the first ten
WANTED = 8.0  # times as fast as the plain loop
METHODS = ("finetune", "replay", "icarl", "podnet")
WANTED_SHARE = 0.1  # of a step's training time that everything beside it takes at most, with a memory


def plain_herding(embedding: np.ndarray, count: int, images: np.ndarray | None = None) -> list[int]:
    """The loop over picks of the definition, candidates at once; written for this comparison."""
    rows = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    mean, left = rows.mean(0), np.arange(len(rows))
    taken: list[np.ndarray] = []
    picks = []
    for number in range(1, min(count, len(rows)) + 1):
        means = (np.sum(taken, axis=0) + rows) / number if taken else rows
        nearest = int(np.sqrt(np.square(mean - means).sum(1)).argmin())
        picks.append(int(left[nearest]))
        taken.append(rows[nearest])
        rows, left = np.delete(rows, nearest, axis=0), np.delete(left, nearest)
        if images is not None:
            images = np.delete(images, nearest, axis=0)
    return picks


def herding(classes: int, images: int, width: int, count: int, rounds: int) -> Cell:
    """Least seconds of all classes by each way, and how many classes get the same exemplars in the same order."""
    from gkd.incremental.memory import herding as running_sum

    embedding = torch.randn(classes, images, width, generator=torch.Generator().manual_seed(0))
    pixels = np.zeros((images, 3, 32, 32), np.uint8)
    ways: dict[str, Callable[[torch.Tensor], list[int]]] = {
        "gkd": lambda rows: running_sum(rows, count).tolist(),
        "plain": lambda rows: plain_herding(rows.numpy(), count),
        "with_images": lambda rows: plain_herding(rows.numpy(), count, pixels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    picks = {}
    for number in range(rounds + 1):
        for name, choose in ways.items():
            start = time.perf_counter()
            picks[name] = [choose(rows) for rows in (embedding if number else embedding[:1])]
            if number:  # the first round only warms up
                seconds[name].append(time.perf_counter() - start)
    alike = sum(ours == plain for ours, plain in zip(picks["gkd"], picks["plain"], strict=True))
    least = {name: min(times) for name, times in seconds.items()}
    return {
        "classes": classes,
        "images": images,
        "width": width,
        "count": count,
        "rounds": rounds,
        **{f"{name}_seconds": taken for name, taken in least.items()},
        "ratio": least["plain"] / least["gkd"],
        "ratio_with_images": least["with_images"] / least["gkd"],
        "classes_alike": alike,
    }


def bookkeeping(method: str, threads: int) -> Cell:
    """Seconds of training and of everything else in each step after the first."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["gkd", "run", "incremental/tiny_imagenet_100", f"method={method}", "teacher=null"]
        command += ["task.base_epochs=1", f"run.threads={threads}", f"run.out={folder}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        found = [json.loads(path.read_text()) for path in Path(folder).rglob("steps/*/summary.json")]
    steps = sorted(found, key=lambda step: int(step["step"]))[1:]
    training = [step["seconds"] for step in steps]
    beside = [step["bookkeeping_seconds"] for step in steps]
    return {
        "method": method,
        "classes": [len(step["classes"]) for step in steps],
        "memory": [step["memory"] for step in steps],
        "training_seconds": training,
        "bookkeeping_seconds": beside,
        "share": sum(beside) / sum(training),
        "largest_share": max(one / other for one, other in zip(beside, training, strict=True)),
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        "| herding | gkd | plain loop | × | with images | × | the same choice |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for cell in result["herding"]:
        lines.append(
            f"| {cell['count']} of {cell['images']} | {1e3 * cell['gkd_seconds']:.0f} ms "
            f"| {1e3 * cell['plain_seconds']:.0f} ms | {cell['ratio']:.1f} "
            f"| {1e3 * cell['with_images_seconds']:.0f} ms | {cell['ratio_with_images']:.1f} "
            f"| {cell['classes_alike']} of {cell['classes']} classes |"
        )
    slowest, first = min(cell["ratio"] for cell in result["herding"]), result["herding"][0]
    lines.append(
        f"\nHerding is at least {slowest:.1f} times as fast as the plain loop; {WANTED:.0f} are wanted. "
        f"{first['classes']} classes, embeddings of {first['width']} numbers, {result['threads']} threads, "
        f"{result['machine']}."
    )
    return "\n".join(lines)


def step_table(result: dict[str, Any]) -> str:
    lines = [
        "| five steps on photographs | training | everything else | share | of the worst step | exemplars in the end |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for cell in result["bookkeeping"]:
        lines.append(
            f"| `{cell['method']}` | {sum(cell['training_seconds']):.0f} s | {sum(cell['bookkeeping_seconds']):.1f} s "
            f"| {100 * cell['share']:.1f} % | {100 * cell['largest_share']:.1f} % | {cell['memory'][-1]} |"
        )
    lines.append(f"\nWanted: at most {100 * WANTED_SHARE:.0f} % of a step's training.")
    return "\n".join(lines)


def main() -> int:
    args = arguments(__doc__).parse_args()
    cells = []
    for count in COUNTS:
        cell = in_fresh_process(herding, CLASSES, IMAGES, WIDTH, count, args.repeats, threads=args.threads)
        cells.append(cell)
        print(f"herding {count} of {IMAGES}: {cell['ratio']:.1f} x", flush=True)
    shares = []
    for method in METHODS:
        shares.append(bookkeeping(method, args.threads))
        print(f"bookkeeping of {method}: {100 * shares[-1]['share']:.1f} %", flush=True)
    result = {
        **facts(args),
        "wanted": WANTED,
        "herding": cells,
        "wanted_share": WANTED_SHARE,
        "bookkeeping": shares,
    }
    print(table(result), step_table(result), sep="\n\n")
    if args.out:
        write(result, table(result), args.out)
        args.out.with_name("incremental_steps.md").write_text(step_table(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
