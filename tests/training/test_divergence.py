"""What is not finite is named, and no checkpoint holds it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gkd.losses import LOSSES, Loss, Mask
from gkd.problems.judging import Judging
from gkd.storage.checkpoints import latest_checkpoint
from gkd.training.meter import Diverged, MetricsFile
from tests.refusals import refused
from tests.training_helpers import EAGER, STEPS, Trainer, method_of


class _BreaksGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * math.nan


def broken_loss(step: int, how: str) -> Callable[..., Tensor]:
    """A loss whose value or gradient is NaN from the given step on."""
    calls = 0

    def broken(student_logits: Tensor, *, mask: Mask = None) -> Tensor:
        nonlocal calls
        calls += 1
        value = student_logits.square().mean()
        if calls <= step:
            return value
        return value * math.nan if how == "value" else _BreaksGradient.apply(value)

    return broken


def assert_checkpoints_are_finite(folder: Path, newest: int) -> None:
    found = latest_checkpoint(folder / "checkpoints")
    assert found is not None
    assert found.facts["global_step"] == newest
    for path in (folder / "checkpoints").rglob("*.safetensors"):
        for name, tensor in load_file(path).items():
            assert torch.isfinite(tensor.double()).all(), f"{path.name}: {name}"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("value", "^loss/broken became non-finite at step 6; .* Lower optimiser.lr"),
        ("gradient", "non-finite .*before step 7"),
    ],
)
def test_what_diverges_is_named_and_never_saved(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, how: str, message: str
) -> None:
    monkeypatch.setitem(LOSSES, "broken", Loss(broken_loss(6, how), "ours"))
    run, method = trainer(), method_of(cross_entropy={}, broken={})
    with pytest.raises(Diverged, match=message):
        run.fit(method, {"one": 4}, settings=EAGER)
    assert_checkpoints_are_finite(run.folder, 6)


def test_divergence_is_found_without_a_checkpoint_in_between(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSSES, "broken", Loss(broken_loss(2, "value"), "ours"))
    run = trainer()
    with pytest.raises(Diverged, match=r"^loss/broken became non-finite at step 2"):
        run.fit(method_of(broken={}), {"one": 4})
    assert latest_checkpoint(run.folder / "checkpoints") is None
    assert MetricsFile(run.folder / "metrics.jsonl").read() == []


def test_a_buffer_that_is_not_finite_is_never_saved(trainer: Callable[..., Trainer]) -> None:
    """In training mode BatchNorm does not read its running statistics, so the loss stays finite."""
    run = trainer()
    student = run.student()

    def overflow(done: int) -> None:
        if done == 6:
            student.bn1.running_var.fill_(math.inf)  # type: ignore[union-attr, operator]

    with pytest.raises(Diverged):
        run.fit(method_of(cross_entropy={}), {"one": 2}, student=student, at=overflow, settings=EAGER)
    assert_checkpoints_are_finite(run.folder, 5)


def test_a_student_that_diverges_in_its_only_epoch_is_neither_judged_nor_saved(
    trainer: Callable[..., Trainer],
) -> None:
    """The loss of the last step is finite, for the weights overflow after it, and so are the weights themselves."""
    run = trainer()
    student = run.student()

    def overflow(done: int) -> None:
        if done == STEPS:
            with torch.no_grad():
                student.head.weight.fill_(3e38)  # type: ignore[union-attr, operator]

    with refused("outputs-not-finite") as caught:
        run.fit(method_of(cross_entropy={}), {"one": 1}, student=student, at=overflow)
    assert isinstance(caught.value, Diverged)
    assert all(torch.isfinite(tensor).all() for tensor in student.state_dict().values())
    assert latest_checkpoint(run.folder / "checkpoints") is None
    assert MetricsFile(run.folder / "metrics.jsonl").read() == []


def test_a_validation_metric_that_is_not_finite_is_named(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer()
    monkeypatch.setattr(Judging, "validate", lambda *_: ("worst_class", math.nan))
    with refused("metric-not-finite"):
        run.fit(method_of(cross_entropy={}), {"one": 1})
