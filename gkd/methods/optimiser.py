"""Optimisers and learning-rate schedules, described as data and built in one place."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Optimiser(BaseModel):
    """An optimiser and its learning-rate schedule over one stage.

    Epoch counts (``milestones``, ``warmup_epochs``) are in the epochs that the method states for the
    stage; a run with another total rescales them together with the stage.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["sgd", "adamw"] = "sgd"
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

    @model_validator(mode="after")
    def _fits_together(self) -> Optimiser:
        if self.schedule == "multi-step" and not self.milestones:
            raise ValueError("the multi-step schedule needs milestones, such as [150, 180, 210]")
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs the optimiser sgd with a momentum above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas lie in [0, 1); got {list(self.betas)}")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones must increase; got {list(self.milestones)}")
        return self

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
        """The torch optimiser over parameter groups that carry ``lr_scale`` and ``decay_scale``."""
        scaled = [
            {
                **group,
                "lr": self.lr * group["lr_scale"],
                "weight_decay": self.weight_decay * group["decay_scale"],
            }
            for group in groups
        ]
        if self.name == "adamw":
            return torch.optim.AdamW(scaled, lr=self.lr, betas=self.betas)
        return torch.optim.SGD(scaled, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)

    def set_lr(self, optimiser: torch.optim.Optimizer, progress: float, epochs: float) -> float:
        """Writes the learning rate of this point into every group; returns the unscaled one."""
        lr = self.lr * self.lr_factor(progress, epochs)
        for group in optimiser.param_groups:
            group["lr"] = lr * group["lr_scale"]
        return lr


def _cosine(done: float) -> float:
    """Falls from 1 to 0 as ``done`` goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))
