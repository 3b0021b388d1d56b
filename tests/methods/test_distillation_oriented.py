"""DOT: two momentum buffers, against the paper's equations number by number."""

from __future__ import annotations

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from gkd.core.batch import Batch
from gkd.distill.distiller import Distiller
from gkd.distill.teacher import Teacher
from gkd.methods.distillation_oriented import DistillationOrientedSGD
from gkd.methods.optimiser import Optimiser
from gkd.methods.terms import Term
from gkd.models import build_network
from gkd.training.loop import backward

LR, MOMENTUM, DELTA, DECAY = 0.1, 0.9, 0.075, 0.01


def by_the_equations(
    start: float, gradients: list[tuple[float | None, float | None]], delta: float = DELTA
) -> float:
    """One parameter after steps with a gradient of the labels and one of the teacher."""
    value, of_labels, of_teacher = start, 0.0, 0.0
    for labels, teacher in gradients:
        shift = delta if labels is not None and teacher is not None else 0.0
        before = value
        if labels is not None:
            of_labels = (MOMENTUM - shift) * of_labels + labels + DECAY * before
            value -= LR * of_labels
        if teacher is not None:
            of_teacher = (
                (MOMENTUM + shift) * of_teacher + teacher + (DECAY * before if labels is None else 0.0)
            )
            value -= LR * of_teacher
    return value


@pytest.mark.parametrize("which", [(True, True), (True, False), (False, True)])
def test_both_momentums_are_the_papers(which: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
    optimiser = DistillationOrientedSGD([weight], LR, momentum=MOMENTUM, delta=DELTA, weight_decay=DECAY)
    drawn = torch.randn(7, 2, dtype=torch.float64)
    gradients = [(a if which[0] else None, b if which[1] else None) for a, b in drawn.tolist()]
    for labels, teacher in gradients:
        optimiser.zero_grad(set_to_none=True)
        if teacher is not None:
            (teacher * weight).sum().backward()
        optimiser.take_teachers()
        if labels is not None:
            (labels * weight).sum().backward()
        optimiser.step()
    assert weight.item() == pytest.approx(by_the_equations(0.7, gradients), rel=1e-12)


@pytest.mark.parametrize("teachers", [True, False])
def test_a_parameter_of_one_gradient_and_no_delta_at_all_are_sgd(teachers: bool) -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    twin = copy.deepcopy(network)
    images = torch.randn(6, 5, 4)
    ours = DistillationOrientedSGD(
        network.parameters(), LR, momentum=MOMENTUM, delta=DELTA, weight_decay=DECAY
    )
    theirs = torch.optim.SGD(twin.parameters(), LR, momentum=MOMENTUM, weight_decay=DECAY)
    for batch in images:
        for model, optimiser in ((network, ours), (twin, theirs)):
            optimiser.zero_grad(set_to_none=True)
            model(batch).square().mean().backward()
        if teachers:
            ours.take_teachers()
        ours.step()
        theirs.step()
    torch.testing.assert_close(network.weight, twin.weight)
    torch.testing.assert_close(network.bias, twin.bias)


def test_the_state_is_in_the_state_dict() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))

    def step(optimiser: DistillationOrientedSGD, parameter: nn.Parameter) -> None:
        optimiser.zero_grad(set_to_none=True)
        parameter.square().sum().backward()
        optimiser.take_teachers()
        parameter.sum().backward()
        optimiser.step()

    optimiser = DistillationOrientedSGD([weight], LR)
    step(optimiser, weight)
    other = nn.Parameter(weight.detach().clone())
    resumed = DistillationOrientedSGD([other], LR)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for _ in range(3):
        step(optimiser, weight)
        step(resumed, other)
    assert torch.equal(weight, other)


def test_a_step_gives_what_the_teacher_says_apart() -> None:
    torch.manual_seed(0)
    student = build_network("resnet8", num_classes=3, in_channels=1)
    teacher = Teacher(build_network("resnet8", num_classes=3, in_channels=1))
    terms = {
        "cross_entropy": Term(loss="cross_entropy", weight=0.4),
        "kd": Term(loss="kd", weight=2.0),
        "sp": Term(loss="sp", weight=30.0),
    }
    batch = Batch(torch.randn(6, 1, 8, 8), torch.arange(6) % 3)
    distiller = Distiller(student, teacher, terms).eval()
    together = distiller(batch)
    assert {"taught", "untaught"}.isdisjoint(together)
    distiller.apart = True
    apart = distiller(batch)
    torch.testing.assert_close(apart["loss"], together["loss"])
    torch.testing.assert_close(apart["untaught"], 0.4 * together["loss/cross_entropy"])
    torch.testing.assert_close(apart["taught"], 2 * together["loss/kd"] + 30 * together["loss/sp"])


def test_the_loop_updates_by_both_gradients() -> None:
    """Three steps of the training loop's backward pass, beside autograd and the equations on every parameter."""
    torch.manual_seed(0)
    student = build_network("resnet8", num_classes=3, in_channels=1).double()
    twin = copy.deepcopy(student)
    teacher = Teacher(build_network("resnet8", num_classes=3, in_channels=1).double())
    terms = {"cross_entropy": Term(loss="cross_entropy", weight=0.4), "kd": Term(loss="kd", weight=2.0)}
    ours, theirs = Distiller(student, teacher, terms).eval(), Distiller(twin, teacher, terms).eval()
    ours.apart = theirs.apart = True
    optimiser = DistillationOrientedSGD(
        student.parameters(), LR, momentum=MOMENTUM, delta=DELTA, weight_decay=DECAY
    )
    buffers = [[torch.zeros_like(p) for p in twin.parameters()] for _ in range(2)]
    for _ in range(3):
        batch = Batch(torch.randn(6, 1, 8, 8).double(), torch.arange(6) % 3)
        optimiser.zero_grad(set_to_none=True)
        losses = ours(batch)
        backward(losses, optimiser)
        optimiser.step()
        assert {"taught", "untaught"}.isdisjoint(losses)
        parts = theirs(batch)
        weights = list(twin.parameters())
        gradients = [
            torch.autograd.grad(parts[kind], weights, retain_graph=True) for kind in ("untaught", "taught")
        ]
        with torch.no_grad():
            for number, parameter in enumerate(twin.parameters()):
                decayed = gradients[0][number] + DECAY * parameter
                buffers[0][number] = (MOMENTUM - DELTA) * buffers[0][number] + decayed
                buffers[1][number] = (MOMENTUM + DELTA) * buffers[1][number] + gradients[1][number]
                parameter -= LR * (buffers[0][number] + buffers[1][number])
    for trained, expected in zip(student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "adamw"}, "of the optimiser sgd"),
        ({"nesterov": True}, "without nesterov"),
        ({"options": {"dampening": 0.1}}, "without nesterov and options"),
        ({"clip_norm": 1.0}, "clip_norm is not defined"),
        ({"momentum": 0.95}, "which must stay in"),
        ({"momentum": 0.05}, "which must stay in"),
    ],
)
def test_dot_is_refused_where_it_is_not_defined(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Optimiser(dot=0.075, **settings)  # type: ignore[arg-type]
