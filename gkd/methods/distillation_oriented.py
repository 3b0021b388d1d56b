"""SGD with a momentum of its own for what a teacher says: the distillation-oriented trainer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_LABELS, _TEACHER = "momentum_buffer", "teacher_momentum_buffer"


class DistillationOrientedSGD(torch.optim.Optimizer):
    """SGD that keeps the gradients of terms on a teacher and of the other terms in two momentum buffers.

    ``v_T ← (μ + Δ) v_T + g_T``, ``v ← (μ − Δ) v + g + λ θ`` and ``θ ← θ − lr (v + v_T)`` with ``g_T`` the gradient of
    the terms that read a teacher, which so has a longer memory. A parameter that only one of the two reaches has SGD's
    momentum μ. ``take_teachers`` keeps the gradients that stand in the parameters as ``g_T``; ``step`` takes those that
    stand there then as ``g``.

    Args:
        params: parameters or groups of them.
        lr: the learning rate.
        momentum: μ.
        delta: Δ, at most μ, and below 1 − μ.
        weight_decay: λ.

    Paper:
        Zhao, Cui, Song, Liang: DOT: A Distillation-Oriented Trainer, ICCV 2023, arXiv 2307.08436; the weight decay and
        the parameters of one gradient as in the authors' code.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay}
        )
        self._of_teacher: dict[Tensor, Tensor] = {}

    def take_teachers(self) -> None:
        """Take the gradients that stand in the parameters for those of the terms on a teacher, and clear them."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        self._of_teacher = {parameter: parameter.grad for parameter in parameters}
        self.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters by both gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self._update(parameter, group)
        self._of_teacher = {}

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        momentum, decay = group["momentum"], group["weight_decay"]
        gradients = {_LABELS: parameter.grad, _TEACHER: self._of_teacher.get(parameter)}
        found = {name: gradient for name, gradient in gradients.items() if gradient is not None}
        delta = group["delta"] if len(found) == 2 else 0.0
        if found and decay:  # of the parameter as it is before either update
            first = next(iter(found))
            found[first] = found[first].add(parameter, alpha=decay)
        for name, gradient in found.items():
            buffer = self.state[parameter].get(name)
            if buffer is None:
                buffer = self.state[parameter][name] = gradient.clone()
            else:
                buffer.mul_(momentum - delta if name == _LABELS else momentum + delta).add_(gradient)
            parameter.add_(buffer, alpha=-group["lr"])
