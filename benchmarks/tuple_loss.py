"""Time and memory of the tuple loss against other ways to compute it, forward and backward.

- ``gkd``: sorted rows and prefix sums, O(B² log B).
- ``loop``: the definition, one Python step and a few tensor operations per (anchor, positive) pair.
- ``official``: the authors' way (njulus/REFILLED@be649aa, tuple branch), re-derived: all semi-hard
  triplets, merged into padded tuples by a Python loop over them.
- ``padded``: all tuples at once as a ``[P, 1 + B]`` matrix with a mask, O(P · B) memory.

All give the same value on the same clustered embeddings; the largest difference is reported.
Each cell runs in a fresh process: the time is the median of several runs, the memory the growth of the
peak resident set from just before the first run.

    python benchmarks/tuple_loss.py --out benchmarks/results/tuple_loss.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from _measure import Cell, arguments, facts, in_fresh_process, measure, show, teach_allocator, write
from torch import Tensor
from torch.nn import functional as F

from gkd.losses import tuple_loss, tuple_loss_and_count

WIDTH = 128
TEMPERATURE, MARGIN = 4.0, 0.2
CLASSES = (10, 100)
SIZES = (64, 128, 256, 512, 1024, 2048)
GKD_SIZES = (*SIZES, 4096)
LONGEST_SECONDS = 20.0
LARGEST_PADDED_GIB = 4.0


def clustered_batch(batch: int, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher embeddings around one direction a class, and the labels.

    The noise is 1.5 times as long as the class direction: the clusters overlap, as in training, and
    nearly every pair has semi-hard negatives.
    """
    generator = torch.Generator().manual_seed(batch + num_classes)
    labels = torch.randint(num_classes, (batch,), generator=generator)
    views = []
    for _ in ("student", "teacher"):
        centres = torch.randn(num_classes, WIDTH, generator=generator)
        views.append(centres[labels] + 1.5 * torch.randn(batch, WIDTH, generator=generator))
    return views[0].requires_grad_(), views[1], labels


def loop_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    student, teacher = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    with torch.no_grad():
        distance = torch.cdist(student, student, compute_mode="donot_use_mm_for_euclid_dist")
        positives = (labels.unsqueeze(1) == labels).fill_diagonal_(False)
    divergences = []
    for a, p in positives.nonzero().tolist():
        gap = distance[a] - distance[a, p]
        negatives = ((labels != labels[a]) & (gap > 0) & (gap <= MARGIN)).nonzero()[:, 0]
        if len(negatives) == 0:
            continue
        members = torch.cat([negatives.new_tensor([p]), negatives])
        s = -(student[a] - student[members]).norm(dim=1) / TEMPERATURE
        t = -(teacher[a] - teacher[members]).norm(dim=1) / TEMPERATURE
        divergences.append(F.kl_div(s.log_softmax(0), t.softmax(0), reduction="sum"))
    return torch.stack(divergences).mean() if divergences else student.sum() * 0


def official_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    student, teacher = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    with torch.no_grad():
        distance = torch.cdist(student, student, compute_mode="donot_use_mm_for_euclid_dist")
        same = labels.unsqueeze(1) == labels
        positives = same.clone().fill_diagonal_(False)
        a, p, n = (positives.unsqueeze(2) & ~same.unsqueeze(1)).nonzero(as_tuple=True)
        gap = distance[a, n] - distance[a, p]
        kept = (gap > 0) & (gap <= MARGIN)
        a, p, n = a[kept], p[kept], n[kept]
    pairs: list[tuple[Tensor, Tensor]] = []
    for i in range(len(a)):  # one comparison of two tensors per triplet
        if not pairs or a[i] != pairs[-1][0] or p[i] != pairs[-1][1]:
            pairs.append((a[i], p[i]))
    if not pairs:
        return student.sum() * 0
    negatives = [n[(a == anchor) & (p == positive)] for anchor, positive in pairs]
    padded = torch.nn.utils.rnn.pad_sequence(negatives, batch_first=True)
    lengths = torch.tensor([len(members) for members in negatives])
    padding = torch.arange(padded.shape[1]) >= lengths.unsqueeze(1)
    anchors = torch.stack([anchor for anchor, _ in pairs])
    positive = torch.stack([positive for _, positive in pairs])

    def logits(e: Tensor) -> Tensor:
        near = (e[anchors] - e[positive]).norm(dim=1)
        far = (e[anchors].unsqueeze(1) - e[padded]).norm(dim=2).masked_fill(padding, 1e9)
        return torch.cat([near.unsqueeze(1), far], dim=1) / -TEMPERATURE

    divergence = F.kl_div(logits(student).log_softmax(1), logits(teacher).softmax(1), reduction="none")
    return divergence.sum(dim=1).mean()


def padded_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    student, teacher = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    near = torch.cdist(student, student, compute_mode="donot_use_mm_for_euclid_dist")
    graded = torch.cdist(teacher, teacher, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels.unsqueeze(1) == labels
    a, p = same.clone().fill_diagonal_(False).nonzero(as_tuple=True)
    gap = near.detach()[a] - near.detach()[a, p].unsqueeze(1)
    negative = ~same[a] & (gap > 0) & (gap <= MARGIN)
    kept = negative.any(dim=1)
    a, p, negative = a[kept], p[kept], negative[kept]
    if len(a) == 0:
        return student.sum() * 0

    def logits(distance: Tensor) -> Tensor:
        rows = distance[a].masked_fill(~negative, 1e4)
        return torch.cat([distance[a, p].unsqueeze(1), rows], dim=1) / -TEMPERATURE

    divergence = F.kl_div(logits(near).log_softmax(1), logits(graded).softmax(1), reduction="none")
    return divergence.sum(dim=1).mean()


def gkd_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return tuple_loss(student, teacher, labels, temperature=TEMPERATURE, margin=MARGIN)


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "gkd": gkd_loss,
    "loop": loop_loss,
    "official": official_loss,
    "padded": padded_loss,
}


def measure_cell(method: str, batch: int, num_classes: int, repeats: int) -> Cell:
    """One cell, in this process: call it in a fresh one."""
    teach_allocator()
    small = clustered_batch(32, 4)
    for _ in range(3):
        METHODS[method](*small).backward()  # libraries load before the memory is looked at
    student, teacher, labels = clustered_batch(batch, num_classes)

    def run() -> Tensor:
        student.grad = None
        loss = METHODS[method](student, teacher, labels)
        loss.backward()
        return loss

    return measure(run, repeats, student.device)


def count_pairs(batch: int, num_classes: int) -> int:
    sizes = torch.bincount(clustered_batch(batch, num_classes)[2])
    return int((sizes * (sizes - 1)).sum())


def why_skipped(method: str, batch: int, num_classes: int, done: list[dict[str, Any]]) -> str | None:
    """The reason why a cell is not run, from the pairs of this and of the cells already measured."""
    pairs = count_pairs(batch, num_classes)
    if method == "padded":
        gib = pairs * (1 + batch) * 4 * 8 / 2**30  # eight matrices of float32 or their like live at once
        return f"needs {gib:.0f} GiB" if gib > LARGEST_PADDED_GIB else None
    if method == "loop":
        rates = [
            cell["seconds"] / cell["pairs"] for cell in done if cell["method"] == "loop" and "seconds" in cell
        ]
        seconds = pairs * max(rates[-1:], default=0.0)
        return f"would take {seconds:.0f} s" if seconds > LONGEST_SECONDS else None
    if method == "official":
        before = [cell for cell in done if cell["method"] == method and cell["classes"] == num_classes]
        if before and "seconds" not in before[-1]:
            return "as above"
        # triplets grow with B³ and each pair scans them all, up to B⁵; B⁴ is what small sizes show
        seconds = before[-1]["seconds"] * (batch / before[-1]["batch"]) ** 4 if before else 0.0
        return f"would take {seconds:.0f} s" if seconds > LONGEST_SECONDS else None
    return None


def run(args: argparse.Namespace) -> dict[str, Any]:
    cells: list[dict[str, Any]] = []
    for num_classes in CLASSES:
        for batch in (64, 128) if args.quick else GKD_SIZES:
            tuples = int(tuple_loss_and_count(*clustered_batch(batch, num_classes))[1])
            for method in METHODS if batch in SIZES else ("gkd",):
                cell = {"method": method, "batch": batch, "classes": num_classes}
                cell |= {"pairs": count_pairs(batch, num_classes), "tuples": tuples}
                reason = why_skipped(method, batch, num_classes, cells)
                task = (measure_cell, method, batch, num_classes, args.repeats)
                cell |= {"skipped": reason} if reason else in_fresh_process(*task, threads=args.threads)
                cells.append(cell)
                print(f"{method:>7} B={batch:<5} {num_classes:>4} classes: {show(cell)}", file=sys.stderr)
    return {
        **facts(args),
        "width": WIDTH,
        "temperature": TEMPERATURE,
        "margin": MARGIN,
        "repeats": args.repeats,
        "quick": args.quick,
        "largest_relative_difference": largest_difference(cells),
        "cells": cells,
    }


def largest_difference(cells: list[dict[str, Any]]) -> float:
    """Between gkd's value and the other two, relative, over all cells that both ran."""
    ours = {(cell["batch"], cell["classes"]): cell["value"] for cell in cells if cell["method"] == "gkd"}
    differences = [
        abs(cell["value"] - ours[cell["batch"], cell["classes"]]) / max(abs(cell["value"]), 1e-12)
        for cell in cells
        if cell["method"] != "gkd" and "value" in cell
    ]
    return max(differences, default=0.0)


def table(result: dict[str, Any]) -> str:
    """Markdown: one line per batch size and number of classes, with the ratios to gkd."""
    cells = {(cell["classes"], cell["batch"], cell["method"]): cell for cell in result["cells"]}
    lines = [
        "| classes | B | pairs | tuples | gkd | loop | ÷ gkd | official | ÷ gkd | padded | ÷ gkd |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (num_classes, batch, method), ours in cells.items():
        if method != "gkd":
            continue
        line = [str(num_classes), str(batch), str(ours["pairs"]), str(ours["tuples"]), show(ours)]
        for other in ("loop", "official", "padded"):
            cell = cells.get((num_classes, batch, other), {"skipped": "not run"})
            timed = "seconds" in cell and "seconds" in ours
            line += [show(cell), f"{cell['seconds'] / ours['seconds']:.1f} ×" if timed else "—"]
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="only B = 64 and 128, to see that it runs")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = run(args)
    print(table(result))
    print(f"\nLargest relative difference between the values: {result['largest_relative_difference']:.1e}.")
    if args.out:
        write(result, table(result), args.out)


if __name__ == "__main__":
    main()
