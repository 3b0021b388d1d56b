"""Learning-rate schedules, and optimisers as data (``gkd.methods.optimiser_names`` finds their classes)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gkd.methods.distillation_oriented import DistillationOrientedSGD
from gkd.methods.optimiser_names import (
    ADAMW,
    SGD,
    build_optimiser,
    check_optimiser_name,
    check_options,
    needs_trial,
    scaled_groups,
    torch_optimiser,
    try_optimiser,
)


class Optimiser(BaseModel):
    """An optimiser and its learning-rate schedule over one stage.

    Epoch counts (``milestones``, ``warmup_epochs``) are in the epochs that the method states for the
    stage; a run with another total rescales them together with the stage.

    Attributes:
        name: ``sgd``, ``adamw``, a class of ``torch.optim`` such as ``RMSprop``, the name of a plug-in (entry-point
            group ``gkd.optimisers``), or your own ``pkg.module:name``.
        options: further keywords for it, such as ``{alpha: 0.95}``.
        lr: the learning rate at its highest; each parameter group scales it.
        momentum: passed to ``sgd`` alone; for another optimiser it goes into ``options``.
        nesterov: likewise.
        betas: passed to ``adamw`` alone, likewise.
        weight_decay: passed to every optimiser; each parameter group scales it.
        schedule: of the learning rate over a stage.
        milestones: epochs of the ``multi-step`` schedule.
        gamma: the factor at each milestone.
        final_factor: where the ``cosine`` and ``one-cycle`` schedules end, as a share of ``lr``.
        warmup_epochs: in which the learning rate rises from 0, before any schedule.
        warmup_share: the share of the stage in which ``one-cycle`` rises.
        start_factor: where ``one-cycle`` begins, as a share of ``lr``.
        clip_norm: the largest norm of the gradient; None does not clip.
        dot: Δ of the distillation-oriented trainer (DOT), of ``sgd`` alone: terms that read a teacher have a momentum
            buffer of their own with ``momentum`` + Δ, the others one with ``momentum`` − Δ; None has one for all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = SGD
    options: dict[str, Any] = {}
    lr: float = Field(default=0.05, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["constant", "cosine", "multi-step", "one-cycle"] = "cosine"
    milestones: tuple[float, ...] = ()
    gamma: float = Field(default=0.1, gt=0)
    final_factor: float = Field(default=0.0, ge=0, le=1)
    warmup_epochs: float = Field(default=0.0, ge=0)
    warmup_share: float = Field(default=0.3, gt=0, lt=1)
    start_factor: float = Field(default=0.04, gt=0, le=1)
    clip_norm: float | None = Field(default=None, gt=0)
    dot: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Optimiser:
        if self.schedule == "multi-step" and not self.milestones:
            raise ValueError("the multi-step schedule needs milestones, such as [150, 180, 210]")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas lie in [0, 1); got {list(self.betas)}")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones must increase; got {list(self.milestones)}")
        check_optimiser_name(self.name)
        factory = torch_optimiser(self.name)
        if factory is not None:
            check_options(self.name, factory, self._settings, self.options)
        if self.nesterov and (self.torch_name != SGD or self.momentum == 0):
            raise ValueError(
                "nesterov needs the optimiser sgd with a momentum above 0; for another add optimiser.nesterov=false"
            )
        if self.dot is not None:
            self._check_dot(self.dot)
        return self

    def _check_dot(self, delta: float) -> None:
        if self.torch_name != SGD or self.nesterov or self.options:
            raise ValueError(
                "dot is of the optimiser sgd, without nesterov and options; leave them out, or dot"
            )
        if self.clip_norm is not None:
            raise ValueError(
                "dot keeps two gradients, of which clip_norm is not defined; leave out one of them"
            )
        if delta > self.momentum or self.momentum + delta >= 1:
            raise ValueError(
                f"dot moves the momentum {self.momentum:g} to both sides by {delta:g}, which must stay in [0, 1); "
                "choose a smaller one, such as 0.075 beside a momentum of 0.9"
            )

    @property
    def torch_name(self) -> str:
        """The name; ``sgd`` and ``adamw`` also for torch's ``SGD`` and ``AdamW``, which read the same keys."""
        return self.name.lower() if self.name.lower() in (SGD, ADAMW) else self.name

    @property
    def _settings(self) -> dict[str, Any]:
        """The keywords that the optimiser gets from keys of its section, beside the options."""
        shared: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.torch_name == SGD:
            return {**shared, "momentum": self.momentum, "nesterov": self.nesterov}
        return {**shared, "betas": self.betas} if self.torch_name == ADAMW else shared

    def check(self) -> None:
        """Try any optimiser but ``sgd`` and ``adamw`` on two small tensors; import it.

        Raises:
            UserError: it cannot be imported, refuses its options, or has a state that no checkpoint can keep.
        """
        if needs_trial(self.name):
            try_optimiser(self.name, self._settings, self.options)

    def lr_factor(self, progress: float, epochs: float) -> float:
        """The learning rate at a point of the stage, as a multiple of ``lr``.

        Args:
            progress: share of the stage done, in [0, 1].
            epochs: the stage's length in the method's own epochs, the unit of the milestones.
        """
        epoch = progress * epochs
        if epoch < self.warmup_epochs:
            return max(epoch / self.warmup_epochs, 1e-3)
        if self.schedule == "cosine":
            start = self.warmup_epochs / epochs
            done = (progress - start) / max(1 - start, 1e-9)
            return self.final_factor + (1 - self.final_factor) * _cosine(done)
        if self.schedule == "multi-step":
            # A tolerance, because progress times epochs may miss a whole epoch by rounding.
            return float(self.gamma ** sum(epoch >= milestone - 1e-6 for milestone in self.milestones))
        if self.schedule == "one-cycle":
            if progress < self.warmup_share:
                rise = 1 - _cosine(progress / self.warmup_share)
                return self.start_factor + (1 - self.start_factor) * rise
            fall = _cosine((progress - self.warmup_share) / (1 - self.warmup_share))
            return self.final_factor + (1 - self.final_factor) * fall
        return 1.0

    def build(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """The torch optimiser over parameter groups that carry ``lr_scale`` and ``decay_scale``.

        Raises:
            UserError: it cannot be imported, or refuses its options or the parameters.
        """
        if self.dot is not None:
            scaled = scaled_groups(groups, self.lr, self.weight_decay)
            return DistillationOrientedSGD(
                scaled, self.lr, momentum=self.momentum, delta=self.dot, weight_decay=self.weight_decay
            )
        return build_optimiser(self.name, groups, self._settings, self.options)

    def set_lr(self, optimiser: torch.optim.Optimizer, progress: float, epochs: float) -> float:
        """Write the learning rate of this point into every group; return the unscaled one."""
        lr = self.lr * self.lr_factor(progress, epochs)
        for group in optimiser.param_groups:
            group["lr"] = lr * group["lr_scale"]
        return lr


def _cosine(done: float) -> float:
    """A factor that falls from 1 to 0 as ``done`` goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))
