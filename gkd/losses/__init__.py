"""Losses: what is matched. Pure functions of tensors, and the registry that methods name them by."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from gkd.losses.induced import class_centres, induced_classifier_loss, induced_logits, teacher_confidence
from gkd.losses.responses import cross_entropy_loss, kd_loss
from gkd.losses.similarity import sp_loss
from gkd.losses.tuples import tuple_loss, tuple_loss_and_count

__all__ = [
    "LOSSES",
    "NEEDS",
    "Loss",
    "class_centres",
    "cross_entropy_loss",
    "induced_classifier_loss",
    "induced_logits",
    "kd_loss",
    "sp_loss",
    "teacher_confidence",
    "tuple_loss",
    "tuple_loss_and_count",
]

# What a loss may ask for, by the names of its positional parameters.
NEEDS = (
    "student_logits",
    "teacher_logits",
    "student_embedding",
    "teacher_embedding",
    "student_map",
    "teacher_map",
    "labels",
    "index",
    "centres",
)

# Keyword-only parameters that the caller fills per batch; the others are hyper-parameters.
PER_BATCH = ("mask", "weights")


@dataclass(frozen=True)
class Loss:
    """A loss as a method sees it.

    Attributes:
        function: the pure function; it returns a 0-dim tensor.
        paper: where it was published.
        counted: the same function returning ``(loss, count)``, where the loss is a mean over a
            number that the batch decides.
    """

    function: Callable[..., Tensor]
    paper: str
    counted: Callable[..., tuple[Tensor, Tensor]] | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """What the loss is handed, in order; each name is one of `NEEDS`."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)

    @property
    def options(self) -> dict[str, Any]:
        """The hyper-parameters and their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in PER_BATCH}

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """The allowed words of each option that takes a word."""
        hints = get_type_hints(self.function)
        return {name: get_args(hints[name]) for name in self.options if get_origin(hints[name]) is Literal}

    @property
    def takes_weights(self) -> bool:
        """Whether the loss can weight its samples."""
        return "weights" in inspect.signature(self.function).parameters


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(cross_entropy_loss, "label smoothing: Szegedy et al., CVPR 2016"),
    "kd": Loss(kd_loss, "Hinton, Vinyals, Dean 2015"),
    "sp": Loss(sp_loss, "Tung, Mori, ICCV 2019"),
    "tuples": Loss(tuple_loss, "Ye, Lu, Zhan, CVPR 2020 and TPAMI 2022", counted=tuple_loss_and_count),
    "induced_classifier": Loss(induced_classifier_loss, "Ye, Lu, Zhan, CVPR 2020 and TPAMI 2022"),
}
