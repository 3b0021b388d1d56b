"""What the two stages of REFILLED do to the student's embedding, epoch by epoch, on validation.

After every epoch the student's embedding of the validation images is looked at: the accuracy of its nearest class mean
(centres of the training images) and of its head, its effective rank (the exponential of the entropy of the shares of
variance), its alignment with the teacher's embedding of the same images (linear CKA), and with what it was itself at
the end of the first stage. Nothing is judged on test images.

    python benchmarks/refilled_stages.py --out benchmarks/results/refilled_stages.json

Variants that the file has with the same overrides are not trained again, so a stopped command goes on; ``--only LABEL``
trains one. The table stands beside the file, as Markdown; ``docs/pictures.py`` draws it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from gkd.config.load import load
from gkd.core.memory import keep_freed_memory
from gkd.experiment.prepare import Prepared, prepare
from gkd.experiment.teachers import load_teacher
from gkd.metrics.ncm import ncm_accuracy
from gkd.training.caches import Caches
from gkd.training.device import use_threads
from gkd.training.loop import fit
from gkd.training.predictions import predict, teacher_predictions
from gkd.training.progress import Reporter

CONFIG = "cross_task/tiny_imagenet_100"
SHARED = (
    "task.shift=50",
    "optimiser.lr=0.8",  # the student's own: cross_task/choosing_rate
    "data.views=10",
    "run.teacher_cache=disk",
    "run.seed=7",
    "evaluate.every=1",
)
_EMBEDDING, _CLASSIFIER = "method.stages.embedding", "method.stages.classifier"
_TUPLES, _INDUCED = f"{_EMBEDDING}.terms.tuples", f"{_CLASSIFIER}.terms.induced"


def split(share: float) -> tuple[str, str]:
    """The overrides that give the first stage a share of the epochs."""
    return f"{_EMBEDDING}.share={share}", f"{_CLASSIFIER}.share={1 - share}"


# Label -> method and overrides; the published two stages first, then one change each.
VARIANTS: dict[str, tuple[str, ...]] = {
    "student": ("method=student",),
    "sp": ("method=sp",),
    "refilled_joint": ("method=refilled_joint",),
    "refilled": ("method=refilled",),
    "10 / 90": ("method=refilled", *split(0.1)),
    "25 / 75": ("method=refilled", *split(0.25)),
    "stage 2 from 0.2": ("method=refilled", f"{_CLASSIFIER}.optimiser.lr=0.2"),
    "stage 2 from 0.05": ("method=refilled", f"{_CLASSIFIER}.optimiser.lr=0.05"),
    "τ 1": ("method=refilled", f"{_TUPLES}.temperature=1", f"{_TUPLES}.weight=60"),
    "τ 0.2": ("method=refilled", f"{_TUPLES}.temperature=0.2", f"{_TUPLES}.weight=10"),
    "all tuples": ("method=refilled", f"{_TUPLES}.mining=all"),
    "tuples kept": ("method=refilled", f'{_CLASSIFIER}.terms.tuples={{"loss": "tuples", "weight": 1000}}'),
    "normalised": (
        "method=refilled",
        f"{_INDUCED}.normalise=true",
        f"{_INDUCED}.teacher_temperature=0.1",
    ),
    "student, rate 0.1": ("method=student", "optimiser.lr=0.1"),
    "refilled, rate 0.1": ("method=refilled", "optimiser.lr=0.1"),
}


class Looked(Reporter):
    """Looks at the student after each epoch."""

    def __init__(self, prepared: Prepared, teacher: Tensor) -> None:
        super().__init__(Console(quiet=True), "")
        self.prepared, self.teacher = prepared, teacher
        self.kept: Tensor | None = None
        self.epochs: list[dict[str, Any]] = []

    def epoch(self, record: Mapping[str, Any], *, last: bool) -> None:
        student, settings = self.prepared.student, self.prepared.settings
        images = self.prepared.problem.student
        logits, embedding = predict(student, images.validation, settings)
        _, of_train = predict(student, images.train, settings)
        labels, train_labels = images.validation.labels.cpu(), images.train.labels.cpu()
        self.epochs.append(
            {
                "stage": record["stage"],
                "epoch": record["epoch"],
                "lr": record["lr"],
                "ncm": ncm_accuracy(embedding, labels, of_train, train_labels, len(images.space)),
                "accuracy": 100 * (logits.argmax(1) == labels).double().mean().item(),
                "rank": effective_rank(embedding),
                "teacher": linear_cka(embedding, self.teacher),
                "kept": None if self.kept is None else linear_cka(embedding, self.kept),
            }
        )
        if last and self.kept is None:
            self.kept = embedding


def effective_rank(embedding: Tensor) -> float:
    """exp of the entropy of the shares of variance along the principal axes, 1 to D (Roy, Vetterli 2007)."""
    variance = torch.linalg.svdvals((embedding - embedding.mean(0)).double()).square()
    share = variance / variance.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return float(torch.special.entr(share).sum().exp())


def linear_cka(one: Tensor, other: Tensor) -> float:
    """Linear centred kernel alignment of two embeddings of the same images, 0 to 1 (Kornblith et al. 2019)."""
    one, other = (values.double() - values.double().mean(0) for values in (one, other))
    products = (one.T @ other).norm().square()
    return float(products / ((one.T @ one).norm() * (other.T @ other).norm()))


def looked_at(overrides: tuple[str, ...], caches: Caches) -> list[dict[str, Any]]:
    """Train a variant, and what its student's embedding was after every epoch."""
    resolved = load(CONFIG, [*SHARED, *overrides])
    prepared = prepare(resolved, caches=caches)
    section = resolved.experiment.teacher
    assert section is not None
    teacher, prepared = load_teacher(prepared, section.checkpoint)
    problem = prepared.problem
    _, seen = teacher_predictions(teacher, problem.student.validation, prepared.settings)
    looked = Looked(prepared, seen)
    method = resolved.experiment.method
    guide = teacher if method.needs_teacher else None
    student: nn.Module = prepared.student
    fit(student, guide, problem, method, prepared.epochs, prepared.settings, None, looked)
    return looked.epochs


def table(variants: Mapping[str, Any]) -> str:
    """A row a variant: its embedding at the end of the first of two stages, and its student at the end."""
    looked = ("nearest mean", "rank", "like the teacher")
    head = [
        "variant",
        "epochs of stage 1",
        *(f"{name} then" for name in looked),
        "least kept",
        "student",
        *looked,
    ]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for label in (name for name in VARIANTS if name in variants):
        epochs = variants[label]["epochs"]
        kept = [each["kept"] for each in epochs if each["kept"] is not None]
        first = len(epochs) - len(kept)
        start = [str(first), *_shown(epochs[first - 1]), f"{min(kept):.2f}"] if kept else ["–"] * 5
        lines.append([label, *start, f"{epochs[-1]['accuracy']:.2f}", *_shown(epochs[-1])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _shown(epoch: Mapping[str, Any]) -> list[str]:
    return [f"{epoch['ncm']:.1f}", f"{epoch['rank']:.1f}", f"{epoch['teacher']:.2f}"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON file, which is continued")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="train these alone")
    args = parser.parse_args()
    keep_freed_memory()
    use_threads(None)
    caches = Caches()
    for label in args.only or VARIANTS:
        result = (
            json.loads(args.out.read_text()) if args.out.is_file() else {"config": CONFIG, "variants": {}}
        )
        overrides = [*SHARED, *VARIANTS[label]]
        if result["variants"].get(label, {}).get("overrides") == overrides:
            continue
        epochs = looked_at(VARIANTS[label], caches)
        print(f"{label}: accuracy {epochs[-1]['accuracy']:.2f}, ncm {epochs[-1]['ncm']:.2f}", flush=True)
        # Another process may have added its own meanwhile.
        result = json.loads(args.out.read_text()) if args.out.is_file() else result
        result["variants"][label] = {"overrides": overrides, "epochs": epochs}
        aside = args.out.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        os.replace(aside, args.out)
    args.out.with_suffix(".md").write_text(table(json.loads(args.out.read_text())["variants"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
