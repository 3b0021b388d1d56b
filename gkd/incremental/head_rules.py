"""Rules after an incremental step: correct a head whose new classes saw more images than the old ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError

_STEPS = 100  # of L-BFGS; a fit of two numbers takes about ten


@torch.no_grad()
def align_weights(head: nn.Module, num_old: int, *, clip: bool = False) -> float:
    """Weight alignment: the new classes' weights become as long, on average, as the old ones'.

    ``w_k ← γ w_k`` for k new, with ``γ = mean over old k of ‖w_k‖₂ / mean over new k of ‖w_k‖₂``. The bias stays.

    Args:
        head: a linear head ``[B, D] -> [B, C]``; its weight is changed. The first ``num_old`` rows are the old classes.
        num_old: how many classes are old, from 1 to C − 1.
        clip: first set negative weights to 0. The paper does so after every update, which this single time only
            approaches.

    Returns:
        γ.

    Raises:
        UserError: a head that is not linear, whose rows' lengths mean nothing; no old or no new class; or new rows
            that are all zero.

    Paper:
        Zhao, Xiao, Gan, Zhang, Xia: Maintaining Discrimination and Fairness in Class Incremental Learning, CVPR 2020,
        section 4.
    """
    weight = _linear(head, num_old, "align-weights").weight
    if clip:
        weight.clamp_min_(0)
    lengths = torch.linalg.vector_norm(weight, dim=1)
    old, new = lengths[:num_old].mean(), lengths[num_old:].mean()
    if new == 0:
        raise UserError(
            "The new classes' weights are all zero, so nothing can align them; train the head first.",
            code="zero-weights",
        )
    gamma = old / new
    weight[num_old:] *= gamma
    return float(gamma)


def fit_bias(
    logits: Tensor, labels: Tensor, num_old: int, *, scale_decay: float = 1.0, shift_decay: float = 0.1
) -> tuple[float, float]:
    """Bias correction: the α and β with which the new classes' logits fit held-out images best.

    ``(α, β) = argmin mean_i CE( (z_i,old, α z_i,new + β), y_i ) + a (α − 1)² / 2N + b β² / 2``, a convex problem,
    solved by L-BFGS in float64 from (1, 0). The cross-entropy is of logits: PyCIL's stage 2 takes that of their
    softmax.

    Held-out images are few, and where they are told apart without a mistake ever larger α and β fit them better: such a
    head spoils the next step, which starts from it. The published code stops descending before; here a, which weighs as
    much as so many images, and b keep α and β near 1 and 0.

    Args:
        logits: ``[N, C]`` of held-out images, the same number of each class; the first ``num_old`` columns are old.
        labels: int64 ``[N]``, columns of the logits.
        num_old: how many classes are old, from 1 to C − 1.
        scale_decay: a, ours.
        shift_decay: b, that of the authors' code; the paper has neither.

    Returns:
        α and β, for `correct_bias` or `fold_bias`.

    Raises:
        UserError: no old or no new class, or no held-out image of one of the two.

    Paper:
        Wu et al.: Large Scale Incremental Learning, CVPR 2019, equations 3 and 4; b of
        wuyuebupt/LargeScaleIncrementalLearning@7f687a3 resnet.py.
    """
    _check_split(num_old, logits.shape[1])
    is_old = labels < num_old
    if not is_old.any() or is_old.all():
        raise UserError(
            f"The bias is fitted on {int(is_old.sum())} images of old classes and {int((~is_old).sum())} of new ones; "
            "hold out some of both.",
            code="no-held-out-images",
        )
    logits = logits.detach().double()
    theta = torch.tensor([1.0, 0.0], dtype=torch.float64, device=logits.device, requires_grad=True)
    decays = theta.new_tensor([scale_decay / len(logits), shift_decay])
    start = theta.detach().clone()
    solver = torch.optim.LBFGS(
        [theta], max_iter=_STEPS, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(_corrected(logits, num_old, theta[0], theta[1]), labels)
        loss = loss + (decays * (theta - start) ** 2).sum() / 2
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    alpha, beta = theta.tolist()
    return alpha, beta


def correct_bias(logits: Tensor, num_old: int, alpha: float, beta: float) -> Tensor:
    """``[B, C]`` with ``α z + β`` in the columns from ``num_old`` on: BiC's bias layer."""
    return _corrected(logits, num_old, alpha, beta)


@torch.no_grad()
def fold_bias(head: nn.Module, num_old: int, alpha: float, beta: float) -> None:
    """Write a bias correction into a linear head, so that the network gives corrected logits by itself.

    The new rows of the weight are multiplied by α, their biases become ``α b + β``. So the next step's teacher is
    corrected, as BiC wants it.

    Raises:
        UserError: a head that is not linear or has no bias, or no old or no new class.
    """
    linear = _linear(head, num_old, "fit-bias")
    bias = _bias(linear)
    linear.weight[num_old:] *= alpha
    bias[num_old:] = alpha * bias[num_old:] + beta


def _corrected(logits: Tensor, num_old: int, alpha: float | Tensor, beta: float | Tensor) -> Tensor:
    return torch.cat([logits[:, :num_old], alpha * logits[:, num_old:] + beta], 1)


def check_rules(names: Iterable[str], head: nn.Module) -> None:
    """Refuse rules that a head cannot follow, before it is trained.

    Raises:
        UserError: a head that is not linear, or one without biases for ``fit-bias``.
    """
    for name in names:
        linear = _checked(head, name)
        if name == "fit-bias":
            _bias(linear)


def _checked(head: nn.Module, rule: str) -> nn.Linear:
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"The head is a {type(head).__name__}, but {rule} is on the weights and biases of a linear one; build the "
            "student with the option head: linear, or drop the rule from method.after.",
            code="needs-linear-head",
        )
    return head


def _bias(linear: nn.Linear) -> Tensor:
    if linear.bias is None:
        raise UserError(
            "The head has no bias to hold β; use a linear head with one, or drop fit-bias from method.after.",
            code="no-bias",
        )
    return linear.bias


def _linear(head: nn.Module, num_old: int, rule: str) -> nn.Linear:
    """The head where it is linear and has both old and new classes."""
    linear = _checked(head, rule)
    _check_split(num_old, linear.out_features)
    return linear


def _check_split(num_old: int, num_classes: int) -> None:
    if not 0 < num_old < num_classes:
        raise UserError(
            f"num_old={num_old} of {num_classes} classes leaves no old or no new class; use 1 to {num_classes - 1}.",
            code="num-old-out-of-range",
        )


@dataclass(frozen=True)
class AfterStep:
    """Input of a rule: the trained student, and held-out images.

    Attributes:
        student: the network that a step has just trained; a rule changes its head.
        num_old: how many of its columns are of classes from before the step.
        held_out: logits ``[N, C]`` and labels ``[N]`` of images kept from training, the same number of each class;
            computed when a rule asks.
    """

    student: nn.Module
    num_old: int
    held_out: Callable[[], tuple[Tensor, Tensor]]

    @property
    def head(self) -> Any:
        return self.student.head


def _align_weights(after: AfterStep) -> dict[str, float]:
    return {"gamma": align_weights(after.head, after.num_old)}


def _fit_bias(after: AfterStep) -> dict[str, float]:
    alpha, beta = fit_bias(*after.held_out(), after.num_old)
    fold_bias(after.head, after.num_old, alpha, beta)
    return {"alpha": alpha, "beta": beta}


# What a method may name under ``after``; each changes the head and returns its numbers by name.
RULES: dict[str, Callable[[AfterStep], dict[str, float]]] = {
    "align-weights": _align_weights,
    "fit-bias": _fit_bias,
}
