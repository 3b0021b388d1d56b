"""Losses on logits at several temperatures, or at a learnt one."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.numerics import no_autocast, zero_unselected
from gkd.losses._common import aligned_logits, kl_entries, mean_over_rows
from gkd.losses.registry import loss, module_loss
from gkd.losses.signature import Count, Mask, NotNegative, Positive, Range, checked

__all__ = ["CTKDLoss", "ctkd_loss", "mlkd_loss"]


def _colder_than_zero(options: dict[str, Any]) -> str | None:
    if options["spread"] < options["temperature"]:
        return None
    return (
        f"spread={options['spread']!r} leads from the temperature {options['temperature']!r} down to 0 or below; use a "
        "spread that is smaller than the temperature"
    )


@loss("mlkd", paper="Jin, Wang, Lin, CVPR 2023", refusal=_colder_than_zero)
def mlkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: Positive = 4.0,
    spread: Annotated[int, Range(at_least=0)] = 2,
    instances: NotNegative = 1.0,
    batches: NotNegative = 1.0,
    classes: NotNegative = 1.0,
    unsure: Literal["all", "rows", "share"] = "all",
    standardise: bool = False,
    mask: Mask = None,
) -> Tensor:
    """Multi-level logit distillation: predictions, their products between samples and those between classes.

    ``Σ_T [ λ_i T² mean_b KL(t_b ‖ s_b) + λ_b ‖T Tᵀ − S Sᵀ‖² / B + λ_c ‖Tᵀ T − Sᵀ S‖² / C ]`` over the temperatures
    ``temperature − spread``, in steps of 1, to ``temperature + spread``, with rows ``s = softmax(z_S / T)`` of the
    matrix S ``[B, C]`` and t, T likewise.

    ``unsure`` says what counts where the teacher is surer than usual, at temperature 1: ``all``; ``rows``: the samples
    alone whose largest probability is at most the batch's median, in the first two parts, and in the last the products
    of classes whose probabilities sum to at most the median over the classes; ``share``: all, but each part times the
    share of samples, or of classes, that ``rows`` would take. That is what the authors' code does for the weak view:
    its masks meet losses that are means already.

    Convention: both sides are divided by each temperature; T² is applied to the divergence alone; KL(teacher‖student).
    B counts the selected rows (with ``rows`` those that are unsure, too), C the classes. The first part does not scale
    with B; the second grows with how alike predictions are, the last with B², as published: it sums over the batch. The
    teacher is a constant. No selected row gives a zero that keeps the graph. Over label spaces that only overlap, hand
    over the aligned columns of the shared classes.

    The authors give each image a weak and a strong view; a term sees one. So a method has two terms, one for the parts
    of the weak view and one for the divergence that the strong view has, both of the stage's view. (Their code computes
    the strong view's divergences at the lowest and the highest temperature on the weak one.)

    Args:
        student_logits: ``[B, C]``.
        teacher_logits: ``[B, C]``, column by column the same classes as the student's.
        temperature: the middle temperature.
        spread: how far the temperatures reach to both sides, smaller than the temperature.
        instances: λ_i, weight of the samples' predictions.
        batches: λ_b, weight of the products between samples.
        classes: λ_c, weight of the products between classes.
        unsure: what counts.
        standardise: first bring each row of both sides to mean 0 and standard deviation 1, as `kd_loss` does; which
            rows are unsure is a matter of the teacher's logits as they are.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: sides of different batch sizes or numbers of columns, fewer than two columns, or a spread that is not
            smaller than the temperature.

    Paper:
        Jin, Wang, Lin: Multi-Level Logit Distillation, CVPR 2023, its instance-, batch- and class-level alignment;
        Jin-Ying/Multi-Level-Logit-Distillation@5ee473f for the masks.
    """
    problem = _colder_than_zero({"temperature": temperature, "spread": spread})
    if problem is not None:
        raise UserError(f"mlkd: {problem}.", code="option-out-of-range")
    student, teacher = aligned_logits(student_logits, teacher_logits, mask, standardise=standardise)
    if len(student) == 0:
        return student.sum()
    raw = aligned_logits(student_logits, teacher_logits, mask)[1] if standardise else teacher
    selected = torch.ones_like(raw[:, 0], dtype=torch.bool) if mask is None else mask
    sure = zero_unselected(raw.softmax(1), selected)
    rows = selected & at_most_median(sure.amax(1), selected)
    columns = at_most_median(sure.sum(0), None)
    if unsure != "rows":
        share = rows.to(raw.dtype).sum() / selected.sum().clamp_min(1), columns.to(raw.dtype).mean()
        rows, columns = selected, torch.ones_like(columns)
    row_factor, column_factor = share if unsure == "share" else (1.0, 1.0)
    count = rows.sum().clamp_min(1)
    total = student.sum() * 0
    for step in range(-spread, spread + 1):
        heat = temperature + step
        ours, theirs = (zero_unselected((z / heat).softmax(1), selected) for z in (student, teacher))
        entries = kl_entries((student / heat).log_softmax(1), (teacher / heat).log_softmax(1))
        with no_autocast(student):
            between = _products(zero_unselected(ours, rows)) - _products(zero_unselected(theirs, rows))
            within = _products(ours.mT) - _products(theirs.mT)
        within = torch.where(columns.unsqueeze(1), within, 0)
        total = total + instances * row_factor * heat**2 * mean_over_rows(entries.sum(1), rows)
        total = total + batches * row_factor * between.square().sum() / count
        total = total + classes * column_factor * within.square().sum() / len(columns)
    return total


def at_most_median(values: Tensor, selected: Tensor | None) -> Tensor:
    """Bool ``[N]``: which of the selected values are at most their median, of an even number the middle two's mean."""
    known = values if selected is None else torch.where(selected, values, torch.nan)
    return ~(values > known.nanquantile(0.5))  # what is no number is not hidden


def _products(rows: Tensor) -> Tensor:
    return rows @ rows.mT


@checked
def ctkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature_of_rows: Tensor,
    *,
    standardise: bool = False,
    mask: Mask = None,
) -> Tensor:
    """Distillation at a temperature that gets a gradient.

    ``mean_i T_i² KL( softmax(z_T,i / T_i) ‖ softmax(z_S,i / T_i) )``

    Convention: both sides are divided by the temperature and T² is applied, and the temperature gets a gradient through
    both; KL(teacher‖student), summed over classes, mean over the selected rows; the value does not scale with B. The
    teacher's logits are a constant. No selected row gives a zero that keeps the graph. Over label spaces that only
    overlap, hand over the columns of the shared classes, aligned.

    Args:
        student_logits: ``[B, C]``.
        teacher_logits: ``[B, C]``, column by column the same classes as the student's.
        temperature_of_rows: T, 0-dim or ``[B]``, above 0.
        standardise: first bring each row of both sides to mean 0 and standard deviation 1, as `kd_loss` does.
        mask: Bool ``[B]``, the rows that count; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision logits.

    Raises:
        UserError: sides of different batch sizes or numbers of columns, or fewer than two columns.

    Paper:
        Li, Li, Yang, Zhao, Song, Luo, Li, Yang: Curriculum Temperature for Knowledge Distillation, AAAI 2023.
    """
    student, teacher = aligned_logits(student_logits, teacher_logits, mask, standardise=standardise)
    heat = temperature_of_rows.to(student.dtype).expand(len(student))
    heat = heat if mask is None else torch.where(mask, heat, 1)
    divided = heat.unsqueeze(1)
    entries = kl_entries((student / divided).log_softmax(1), (teacher / divided).log_softmax(1))
    return mean_over_rows(heat.square() * entries.sum(1), mask)


@module_loss("ctkd", ctkd_loss, paper="Li et al., AAAI 2023")
class CTKDLoss(nn.Module):
    """Curriculum temperature: the temperature is learnt against the student, the more so the later the epoch.

    ``T = lowest + reach · sigmoid(θ)`` in :func:`ctkd_loss`, with one number θ for all samples (``global``), or for
    each sample the sum of that and the output of a small network (``instance``). Its gradient is multiplied by −λ on
    the way back, so that a step that trains the student to a smaller loss trains θ to a larger one. λ goes from 0 to
    ``strength`` over the first ``epochs`` of the method's own: ``cosine`` by ``½ (1 − cos(π e / epochs))``, ``linear``
    by ``e / epochs``; e is the epoch with its fraction, where the authors count whole epochs from 1.

    The network of ``instance``: a linear layer to ``hidden`` entries, ReLU, a linear layer to one without bias, of the
    mean and the standard deviation of each side's logits. The authors' repository says how the loss changes, but does
    not have this network: its layers are ours, and do not depend on the number of classes. The logits that it reads
    are constants, so that its reversed gradient does not reach the student.

    Args:
        temperature: whether samples share it: ``global`` or ``instance``.
        lowest: of the temperature; 1 in the authors' code.
        reach: from the lowest to the highest; 20 in the authors' code.
        start: θ at the beginning; 1 in the authors' code, a temperature of 15.6.
        curriculum: how λ grows.
        strength: λ at its end.
        epochs: how long it grows.
        hidden: width of the network of ``instance``.
        standardise: see :func:`ctkd_loss`.

    Shapes:
        student_logits ``[B, C]``, teacher_logits ``[B, C]``, epoch 0-dim, mask Bool ``[B]`` -> 0-dim.

    Paper:
        Li et al., AAAI 2023; zhengli97/CTKD@7d52522 for the numbers and the global temperature.
    """

    def __init__(
        self,
        *,
        temperature: Literal["global", "instance"] = "global",
        lowest: Positive = 1.0,
        reach: NotNegative = 20.0,
        start: float = 1.0,
        curriculum: Literal["cosine", "linear"] = "cosine",
        strength: NotNegative = 1.0,
        epochs: Positive = 10.0,
        hidden: Count = 128,
        standardise: bool = False,
    ) -> None:
        super().__init__()
        self.lowest, self.reach, self.standardise = lowest, reach, standardise
        self.curriculum, self.strength, self.epochs = curriculum, strength, epochs
        self.theta = nn.Parameter(torch.tensor(float(start)))
        self.network: nn.Sequential | None = None
        if temperature == "instance":
            self.network = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 1, bias=False))

    def reversal(self, epoch: Tensor) -> Tensor:
        """λ at an epoch, 0-dim."""
        done = (epoch / self.epochs).clamp(0, 1)
        if self.curriculum == "cosine":
            done = (1 - torch.cos(math.pi * done)) / 2
        return self.strength * done

    def temperature(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The temperature, 0-dim or ``[B]`` where each sample has its own, from aligned logits."""
        theta = self.theta
        if self.network is not None:
            sides = [side.detach() for side in (student, teacher)]
            told = [part for side in sides for part in (side.mean(1), _spread(side))]
            with no_autocast(student):
                theta = theta + self.network(torch.stack(told, 1)).squeeze(1)
        return self.lowest + self.reach * theta.sigmoid()

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, epoch: Tensor, *, mask: Mask = None
    ) -> Tensor:
        student, teacher = aligned_logits(student_logits, teacher_logits, mask, standardise=self.standardise)
        heat = Reversed.apply(self.temperature(student, teacher), self.reversal(epoch.detach()))
        return ctkd_loss(student, teacher, heat, mask=mask)


def _spread(rows: Tensor) -> Tensor:
    """The standard deviation of each row (C − 1), of no row too."""
    apart = rows - rows.mean(1, keepdim=True)
    return (apart.square().sum(1) / (rows.shape[1] - 1)).sqrt()


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by −λ (Ganin, Lempitsky, ICML 2015)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: Tensor) -> Tensor:
        ctx.save_for_backward(strength)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (strength,) = ctx.saved_tensors
        return -strength.to(upstream.dtype) * upstream, None
