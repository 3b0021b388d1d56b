"""The parts of a student that a stage trains; all others are frozen."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from gkd.core.errors import UserError, unknown
from gkd.core.tapped import TappedNetwork
from gkd.models import frozen_parameters


def trainable_modules(student: nn.Module) -> dict[str, nn.Module]:
    """The student's modules by path; of a tapped network those of the wrapped module, as in its state dict."""
    named = student.module if isinstance(student, TappedNetwork) else student
    return dict(named.named_modules())


def check_parts(student: nn.Module, train: Sequence[str]) -> None:
    """Refuse a stage that trains a part which the student does not have."""
    parts = ["student", "head", "backbone", "adapters", *filter(None, trainable_modules(student))]
    for name in train:
        if name not in parts:
            raise UserError(unknown("part to train", name, parts), code="unknown-part-to-train")


def train_parts(student: nn.Module, train: Sequence[str]) -> list[nn.Parameter]:
    """Let the parameters of these parts get gradients, and no others of the student's.

    Args:
        student: a gkd network; what no stage trains, such as its older extractors, stays frozen.
        train: ``student``, ``head``, ``backbone``, ``adapters``, or paths of its modules.

    Returns:
        The parameters that are trained, each once.

    Raises:
        UserError: a name that is none of these.
    """
    check_parts(student, train)
    head = {id(parameter) for parameter in student.head.parameters()}  # type: ignore[union-attr]
    everything, modules = list(student.parameters()), trainable_modules(student)
    chosen: list[nn.Parameter] = []
    for name in train:
        if name == "student":
            chosen += everything
        elif name == "head":
            chosen += [parameter for parameter in everything if id(parameter) in head]
        elif name == "backbone":
            chosen += [parameter for parameter in everything if id(parameter) not in head]
        elif name == "adapters":
            continue  # always trained where a stage's terms own any
        else:
            chosen += list(modules[name].parameters())
    frozen = {id(parameter) for parameter in frozen_parameters(student)}
    trained = [p for key, p in {id(p): p for p in chosen}.items() if key not in frozen]
    for parameter in everything:
        parameter.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    return trained
