"""Learning rates over a stage, against torch's own schedules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from gkd.config.shipped import load_method
from gkd.methods.optimiser import Optimiser


def of_torch(kind: str, epochs: int, **settings: Any) -> list[float]:
    """The learning rate of each epoch as torch's schedule gives it."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.05)
    schedule = getattr(torch.optim.lr_scheduler, kind)(optimiser, **settings)
    rates = []
    for _ in range(epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("total", [240, 24])
def test_multi_step_falls_exactly_at_its_milestones(total: int) -> None:
    stage = load_method("kd").stages["distil"]
    steps, scale = 7, total / stage.epochs
    for milestone, before, after in ((150, 1, 0.1), (180, 0.1, 0.01), (210, 0.01, 0.001)):
        epoch = round(milestone * scale)
        last = (epoch - 1 + (steps - 1) / steps) / total
        assert stage.optimiser.lr_factor(last, stage.epochs) == pytest.approx(before)
        assert stage.optimiser.lr_factor(epoch / total, stage.epochs) == pytest.approx(after)


def test_multi_step_is_torchs() -> None:
    ours = Optimiser(lr=0.05, schedule="multi-step", milestones=(150, 180, 210))
    expected = of_torch("MultiStepLR", 240, milestones=[150, 180, 210], gamma=0.1)
    assert [0.05 * ours.lr_factor(e / 240, 240) for e in range(240)] == pytest.approx(expected)


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_is_torchs(final: float) -> None:
    ours = Optimiser(lr=0.05, schedule="cosine", final_factor=final)
    expected = of_torch("CosineAnnealingLR", 200, T_max=200, eta_min=0.05 * final)
    assert [0.05 * ours.lr_factor(e / 200, 200) for e in range(200)] == pytest.approx(expected)
    assert ours.lr_factor(0.0, 200) == 1.0
    assert ours.lr_factor(1.0, 200) == pytest.approx(final)


def test_one_cycle_rises_to_its_peak_and_falls() -> None:
    ours = Optimiser(schedule="one-cycle", warmup_share=0.25, start_factor=0.04, final_factor=0.001)
    assert ours.lr_factor(0.0, 10) == pytest.approx(0.04)
    assert ours.lr_factor(0.125, 10) == pytest.approx(0.52)
    assert ours.lr_factor(0.25, 10) == pytest.approx(1.0)
    assert ours.lr_factor(1.0, 10) == pytest.approx(0.001)
    steps = 100_000  # torch counts whole steps, which matters ever less
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.05, total_steps=steps, pct_start=0.25, div_factor=25, final_div_factor=40,
        cycle_momentum=False,
    )  # fmt: skip
    cycle._get_lr_called_within_step = True  # asking for a step by its number is meant
    for step in range(0, steps, 9_999):
        cycle.last_epoch = step
        expected = cycle.get_lr()[0] / 0.05
        assert ours.lr_factor(step / steps, 10) == pytest.approx(expected, abs=1e-4)


def test_warm_up_is_linear_and_the_schedule_starts_after_it() -> None:
    ours = Optimiser(schedule="cosine", warmup_epochs=10)
    assert [ours.lr_factor(e / 100, 100) for e in (1, 5, 9)] == pytest.approx([0.1, 0.5, 0.9])
    assert 0 < ours.lr_factor(0.0, 100) <= 0.01  # a first step that moves
    assert ours.lr_factor(0.1, 100) == pytest.approx(1.0)
    assert ours.lr_factor(0.55, 100) == pytest.approx(0.5)
    assert [ours.lr_factor(e / 10, 100) for e in (0.5, 1)] == pytest.approx([0.5, 1.0])  # rescaled to 10


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_groups_get_their_own_rate_and_decay(name: str) -> None:
    ours = Optimiser(name=name, lr=0.2, weight_decay=0.01, schedule="cosine")
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    built = ours.build(
        [
            {"params": [slow], "lr_scale": 0.1, "decay_scale": 0.0},
            {"params": [fast], "lr_scale": 1.0, "decay_scale": 2.0},
        ]
    )
    assert [group["weight_decay"] for group in built.param_groups] == [0.0, 0.02]
    assert ours.set_lr(built, 0.5, 10) == pytest.approx(0.1)
    assert [group["lr"] for group in built.param_groups] == pytest.approx([0.01, 0.1])


def test_it_builds_what_it_says() -> None:
    group = {"params": [nn.Parameter(torch.zeros(1))], "lr_scale": 1.0, "decay_scale": 1.0}
    sgd = Optimiser(momentum=0.8, nesterov=True).build([dict(group)])
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.param_groups[0]["momentum"], sgd.param_groups[0]["nesterov"]) == (0.8, True)
    adamw = Optimiser(name="adamw", betas=(0.8, 0.99)).build([dict(group)])
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["betas"] == (0.8, 0.99)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "multi-step"}, r"needs milestones, such as \[150, 180, 210\]"),
        ({"milestones": [180, 150]}, r"milestones must increase; got \[180.0, 150.0\]"),
        ({"lr": 0}, "greater than 0"),
        ({"lr": math.nan}, "greater than 0"),
        ({"name": "lion"}, "Unknown optimiser 'lion'.*Adam, AdamW, .*Or one of your own: pkg.module:name"),
        ({"nesterov": True, "momentum": 0}, "momentum"),
        ({"name": "adamw", "betas": [0.9, 1.5]}, "betas"),
    ],
)
def test_what_torch_could_not_build_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Optimiser.model_validate(settings)
