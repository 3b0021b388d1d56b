"""A run of the loop on tiny images, to be watched and compared."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from gkd.distill.teacher import Teacher
from gkd.methods.method import Method
from gkd.models import build_network
from gkd.problems.problem import Problem
from gkd.training.loop import fit
from gkd.training.meter import MetricsFile
from gkd.training.progress import Reporter
from gkd.training.settings import Settings
from gkd.training.stage_run import Position, State

SETTINGS = Settings(
    seed=1, batch_size=8, augment="crop-flip", mean=(0.5,), std=(0.25,), device=torch.device("cpu"),
    dtype=torch.float32, checkpoint_seconds=1e9,
)  # fmt: skip


EAGER = replace(SETTINGS, checkpoint_seconds=-1.0)  # a checkpoint after every step


STEPS = 4  # an epoch: 32 images in batches of 8


EPOCHS = {"embedding": 2, "classifier": 2}


TOTAL = 4 * STEPS


class Watched(Reporter):
    """Calls ``at`` with the number of steps done, and counts the calls."""

    def __init__(self, at: Callable[[int], object] | None = None) -> None:
        super().__init__(Console(file=io.StringIO()), "test")
        self.at = at
        self.steps = 0

    def step(self, done: int, total: int) -> None:
        self.steps += 1
        if self.at is not None:
            self.at(done)


@dataclass
class Outcome:
    last: State
    best: State
    position: Position
    records: list[dict[str, Any]]
    steps: int


@dataclass
class Trainer:
    """Builds everything anew, as a new process would, and trains in ``folder``."""

    problem: Problem
    make_teacher: Callable[..., Teacher]
    folder: Path

    def student(self) -> nn.Module:
        torch.manual_seed(SETTINGS.seed)
        return build_network("resnet8", num_classes=len(self.problem.student.space), in_channels=1)

    def fit(
        self,
        method: Method,
        epochs: dict[str, int],
        *,
        settings: Settings = SETTINGS,
        at: Callable[[int], object] | None = None,
        student: nn.Module | None = None,
    ) -> Outcome:
        teacher = self.make_teacher(list(self.problem.relation.teacher), mean=(0.4,))
        before, reporter = teacher.state_hash(), Watched(at)
        last, best, position = fit(
            student or self.student(),
            teacher if method.needs_teacher else None,
            self.problem,
            method,
            epochs,
            settings,
            self.folder,
            reporter,
        )
        assert teacher.state_hash() == before
        records = MetricsFile(self.folder / "metrics.jsonl").read()
        for record in records:
            record.pop("seconds")
        return Outcome(last, best, position, records, reporter.steps)


def same(first: Outcome, second: Outcome) -> bool:
    """Whether two runs end with the same bits and the same lines of metrics."""
    for one, other in ((first.last, second.last), (first.best, second.best)):
        assert set(one) == set(other)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert first.records == second.records
    assert replace(first.position, seconds=0) == replace(second.position, seconds=0)
    return True


def method_of(*, optimiser: dict[str, Any] | None = None, **terms: dict[str, Any]) -> Method:
    """One stage of four epochs."""
    stage = {
        "epochs": 4,
        "terms": terms,
        "optimiser": {"lr": 0.05, "schedule": "constant", **(optimiser or {})},
    }
    return Method.model_validate({"name": "m", "paper": "ours", "summary": "", "stages": {"one": stage}})
