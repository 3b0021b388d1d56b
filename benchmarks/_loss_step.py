"""What a loss adds to a training step of resnet8x4 beside a resnet32x4 teacher."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import torch
from _loss_inputs import CLASSES, STUDENT, TEACHER, arguments, build, evaluate, random_inputs, trained
from _measure import Cell, wait
from torch import Tensor
from torch.nn import functional as F

from gkd.core.network import Features
from gkd.losses import LOSSES
from gkd.models import build_network
from gkd.training.device import choose_dtype

RATE = 1e-6  # so small that no loss, unweighted, drives the student anywhere
BARE_EVERY = 3  # steps with a loss between two bare ones


class Step:
    """One step, with a loss or bare: teacher forward, student forward and backward, SGD."""

    def __init__(self, batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        layout = torch.channels_last
        self.student = build_network(STUDENT, num_classes=CLASSES).to(device, memory_format=layout).train()  # type: ignore[call-overload]
        self.teacher = build_network(TEACHER, num_classes=CLASSES).to(device, memory_format=layout).eval()  # type: ignore[call-overload]
        self.teacher.requires_grad_(False)
        self.images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=layout)
        self.given = random_inputs("kd", batch, device)
        self.device = device
        self.dtype = choose_dtype("auto", device)
        self.calls = {loss: build(loss, device=device) for loss in LOSSES}
        parameters = [
            *self.student.parameters(),
            *(p for calls in self.calls.values() for p in trained(calls)),
        ]
        self.optimiser = torch.optim.SGD(parameters, lr=RATE, momentum=0.9, weight_decay=5e-4)

    def seconds(self, loss: str | None) -> float:
        wait(self.device)
        start = time.perf_counter()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            with torch.no_grad():
                teacher: Features = self.teacher.features(self.images)
            student: Features = self.student.features(self.images)
        total: Tensor = F.cross_entropy(student.logits.float(), self.given.labels)
        if loss is not None:
            read = replace(self.given, student=student, teacher=teacher)
            total = total + evaluate(self.calls[loss], arguments(loss, read))
        self.optimiser.zero_grad()
        total.backward()
        self.optimiser.step()  # parameters of the other losses have no gradient and are passed over
        wait(self.device)
        return time.perf_counter() - start


def steps(batch: int, rounds: int, device_name: str) -> Cell:
    """Median seconds of a bare step and of one with each loss, all taken in turn; and what each adds."""
    step = Step(batch, torch.device(device_name))
    turns: list[str | None] = []
    for number, loss in enumerate(LOSSES):
        turns += [None, loss] if number % BARE_EVERY == 0 else [loss]
    taken: dict[str | None, list[float]] = {turn: [] for turn in turns}
    for number in range(rounds + 1):
        for turn in turns:
            seconds = step.seconds(turn)
            if number > 0 or rounds == 0:  # the first round warms up, unless it is the only one
                taken[turn].append(seconds)
    low, bare, high = statistics.quantiles(taken.pop(None), n=4)
    medians = {loss: statistics.median(times) for loss, times in taken.items() if loss is not None}
    return {
        "batch": batch,
        "rounds": rounds,
        "student": STUDENT,
        "teacher": TEACHER,
        "dtype": str(step.dtype).removeprefix("torch."),
        "bare_seconds": bare,
        "bare_quartiles": [low, high],
        "seconds": medians,
        "share": {loss: (seconds - bare) / bare for loss, seconds in medians.items()},
    }
