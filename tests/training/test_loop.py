"""The loop: it learns, repeats to the bit, goes on where it stopped, and saves nothing that is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import gkd.training.loop
import gkd.training.stage_run
from gkd.config.shipped import load_method
from gkd.core.batch import Batch
from gkd.methods.method import Method
from gkd.problems.judging import BY_CLASSES, Judging
from gkd.storage.weights import copy_state
from gkd.training.predictions import student_outputs
from gkd.training.stage_run import State
from tests.training_helpers import EPOCHS, SETTINGS, STEPS, Trainer, method_of, same


def test_training_lowers_the_loss_and_learns(trainer: Callable[..., Trainer]) -> None:
    run = trainer()
    outcome = run.fit(load_method("student"), {"train": 8})
    losses = [record["loss"] for record in outcome.records]
    assert losses[-1] < 0.5 * losses[0]
    student = run.student()
    outputs, images = student_outputs(student, SETTINGS), run.problem.student
    _, before = BY_CLASSES.validate(outputs, images, "accuracy")
    student.load_state_dict(outcome.last)
    assert BY_CLASSES.validate(outputs, images, "accuracy")[1] > max(before, 60)
    assert outcome.position.images == 8 * 32
    assert outcome.position.global_step == outcome.steps == 8 * STEPS


@pytest.mark.parametrize("name", ["sp", "refilled", "refilled_cvpr", "refilled_joint", "refilled_weighted"])
@pytest.mark.parametrize("student", ["cab", "bcd", "def"], ids=["same", "overlapping", "disjoint"])
def test_every_relation_trains(trainer: Callable[..., Trainer], name: str, student: str) -> None:
    method = load_method(name)
    outcome = trainer(student=student).fit(method, dict.fromkeys(method.stages, 1))
    assert all(math.isfinite(record["loss"]) for record in outcome.records)
    assert len(outcome.records) == len(method.stages)


@pytest.mark.parametrize("views", [None, 2])
def test_the_same_seed_gives_the_same_bits(trainer: Callable[..., Trainer], views: int | None) -> None:
    settings, method = replace(SETTINGS, views=views), load_method("refilled")
    first = trainer("first").fit(method, EPOCHS, settings=settings)
    torch.rand(7)  # whatever the process drew in between
    assert same(first, trainer("second").fit(method, EPOCHS, settings=settings))
    other = trainer("other").fit(method, EPOCHS, settings=replace(settings, seed=2))
    assert not torch.equal(first.last["fc.weight"], other.last["fc.weight"])


@pytest.mark.parametrize(("data", "steps"), [("all", STEPS), ("balanced", STEPS), ("held-out", 2)])
def test_a_stage_chooses_its_images(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, data: str, steps: int
) -> None:
    seen: list[list[int]] = []
    forward = gkd.training.stage_run.Distiller.forward

    def watched(self: Any, batch: Batch) -> dict[str, Tensor]:
        seen.append(batch.labels.tolist())
        return forward(self, batch)

    monkeypatch.setattr(gkd.training.stage_run.Distiller, "forward", watched)
    content = method_of(sp={}, cross_entropy={}).model_dump()
    content["stages"]["one"].update(data=data, images_per_class=4)
    outcome = trainer().fit(Method.model_validate(content), {"one": 2}, settings=replace(SETTINGS, views=2))
    assert outcome.steps == len(seen) == 2 * steps
    counts = [sorted(labels.count(label) for label in set(labels)) for labels in seen]
    assert (counts == [[4, 4]] * len(seen)) == (data == "balanced")


def test_bf16_trains_close_to_float32(trainer: Callable[..., Trainer]) -> None:
    method = load_method("refilled_joint")
    exact = trainer("float32").fit(method, {"distil": 2})
    rounded = trainer("bf16").fit(method, {"distil": 2}, settings=replace(SETTINGS, dtype=torch.bfloat16))
    for name in ("loss/cross_entropy", "loss/induced"):
        assert rounded.records[0][name] == pytest.approx(exact.records[0][name], rel=0.05)
    assert all(tensor.dtype != torch.bfloat16 for tensor in rounded.last.values())  # weights stay float32


def test_a_finished_run_is_not_trained_again(trainer: Callable[..., Trainer]) -> None:
    run, method = trainer(), load_method("refilled")
    first = run.fit(method, EPOCHS)
    again = run.fit(method, EPOCHS)
    assert again.steps == 0
    assert all(torch.equal(first.last[name], again.last[name]) for name in first.last)
    assert all(torch.equal(first.best[name], again.best[name]) for name in first.best)
    assert again.records == first.records


def test_the_second_stage_starts_from_the_firsts_best_with_a_fresh_optimiser(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[tuple[State, dict[Any, Any]]] = []
    ends: list[State] = []
    train_stage = gkd.training.loop._train_stage

    def watched(run: Any, *arguments: Any) -> None:
        starts.append((copy_state(run.student), dict(run.optimiser.state)))
        train_stage(run, *arguments)
        ends.append(run.best)

    monkeypatch.setattr(gkd.training.loop, "_train_stage", watched)
    run = trainer()
    outcome = run.fit(load_method("refilled"), EPOCHS)
    initial = run.student().state_dict()
    assert all(torch.equal(starts[0][0][name], initial[name]) for name in initial)
    assert all(torch.equal(starts[1][0][name], ends[0][name]) for name in initial)
    assert not torch.equal(starts[1][0]["conv1.weight"], initial["conv1.weight"])
    assert starts[0][1] == starts[1][1] == {}  # no momentum is carried over
    assert [(r["stage"], r["epoch"]) for r in outcome.records] == [
        ("embedding", 1), ("embedding", 2), ("classifier", 1), ("classifier", 2)
    ]  # fmt: skip
    assert all("validation/ncm" in record for record in outcome.records[:2])
    assert all("validation/accuracy" in record for record in outcome.records[2:])


def test_the_best_is_the_first_epoch_of_the_largest_validation(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([50.0, 70.0, 70.0, 60.0])
    monkeypatch.setattr(Judging, "validate", lambda *_: ("accuracy", next(values)))
    outcome = trainer().fit(method_of(cross_entropy={}), {"one": 4})
    assert (outcome.position.best_epoch, outcome.position.best_metric) == (2, 70.0)
    assert not torch.equal(outcome.best["conv1.weight"], outcome.last["conv1.weight"])


def test_the_last_epoch_is_always_validated(trainer: Callable[..., Trainer]) -> None:
    settings = replace(SETTINGS, evaluate_every=3)
    outcome = trainer().fit(method_of(cross_entropy={}), {"one": 4}, settings=settings)
    assert [record["epoch"] for record in outcome.records if "validation/accuracy" in record] == [3, 4]


def test_the_learning_rate_and_the_weights_follow_the_methods_own_epochs(
    trainer: Callable[..., Trainer],
) -> None:
    method = method_of(
        optimiser={"schedule": "multi-step", "milestones": [2]},
        cross_entropy={"schedule": {"kind": "linear", "warmup_epochs": 4}},
    )
    outcome = trainer().fit(method, {"one": 8})  # twice as long as published
    assert [record["lr"] for record in outcome.records] == pytest.approx([0.05] * 4 + [0.005] * 4)
    ratios = [record["loss"] / record["loss/cross_entropy"] for record in outcome.records]
    assert ratios == pytest.approx([(epoch + 0.375) / 8 for epoch in range(8)], rel=0.2)
