"""Plan: the part of an experiment that a problem checks, apart from the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gkd.methods.method import Method


@dataclass(frozen=True)
class PlannedNetwork:
    """A network as an experiment states it.

    Attributes:
        network: its name.
        options: keyword arguments that it is built with.
        checkpoint: the weights that it starts from.
        pretrained: whether another run trains it first.
    """

    network: str
    options: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    pretrained: bool = False


@dataclass(frozen=True)
class Plan:
    """The method and the networks that an experiment applies to a problem.

    Attributes:
        task: the task's name.
        method: the method.
        student: the student's network.
        teacher: the teacher's; None without one.
        teacher_sees_others: whether the teacher sees other images than the student, or the same in another form.
    """

    task: str
    method: Method
    student: PlannedNetwork
    teacher: PlannedNetwork | None = None
    teacher_sees_others: bool = False
