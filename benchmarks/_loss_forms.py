"""Plain forms of losses, as one first writes them, to measure gkd's beside; re-derived, not copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _loss_inputs import CLASSES, MAPS, READINGS, training_labels
from torch import Tensor, nn
from torch.nn import functional as F
from tuple_loss import official_loss

from gkd.losses import LOSSES, CRDLoss

FLOAT = 4  # bytes


def nst_broadcast(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Every pair of channels as a product of two maps, ``[B, C, C, HW]``."""
    student, teacher = F.normalize(student_map.flatten(2), dim=2), F.normalize(teacher_map.flatten(2), dim=2)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.unsqueeze(2) * b.unsqueeze(1)).sum(3).square().mean()

    return kernel(teacher, teacher) + kernel(student, student) - 2 * kernel(student, teacher)


def _same_size(before: Tensor, after: Tensor) -> Tensor:
    return before if before.shape[2:] == after.shape[2:] else F.adaptive_avg_pool2d(before, after.shape[2:])


def fsp_broadcast(before: Tensor, after: Tensor, teacher_before: Tensor, teacher_after: Tensor) -> Tensor:
    """Every pair of channels of the two maps as a product, ``[B, C, C', HW]``."""

    def flow(one: Tensor, other: Tensor) -> Tensor:
        return (_same_size(one, other).flatten(2).unsqueeze(2) * other.flatten(2).unsqueeze(1)).mean(3)

    return (flow(before, after) - flow(teacher_before, teacher_after)).square().mean()


def fsp_loop(before: Tensor, after: Tensor, teacher_before: Tensor, teacher_after: Tensor) -> Tensor:
    """One sample after the other."""

    def flow(one: Tensor, other: Tensor) -> Tensor:
        return one.flatten(1) @ other.flatten(1).T / other[0].numel()

    before, teacher_before = _same_size(before, after), _same_size(teacher_before, teacher_after)
    samples = zip(before, after, teacher_before, teacher_after, strict=True)
    return torch.stack([(flow(a, b) - flow(c, d)).square().mean() for a, b, c, d in samples]).mean()


def rkd_angle_cubic(student: Tensor, teacher: Tensor) -> Tensor:
    """The cosines of all triplets, ``[B, B, B]``, through autograd."""

    def cosines(rows: Tensor) -> Tensor:
        directions = F.normalize(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2)
        return directions @ directions.mT

    with torch.no_grad():
        reference = cosines(teacher)
    return F.smooth_l1_loss(cosines(student), reference)


class HostSampledCRD(nn.Module):
    """CRD with negatives drawn on the host, without replacement, and their rows gathered from both banks.

    It starts from the projections and banks of a ``CRDLoss``; ``drawn``: use these instead of drawing.
    """

    def __init__(self, ours: CRDLoss) -> None:
        super().__init__()
        self.projections, self.temperature, self.momentum = ours.projections, ours.temperature, ours.momentum
        self.num_negatives = ours.negatives
        self.banks = [ours.student_bank.clone(), ours.teacher_bank.clone()]
        self.normalisers: list[Tensor] | None = None
        labels = training_labels().numpy()
        self.labels = labels
        self.others = [np.flatnonzero(labels != label) for label in range(CLASSES)]
        self.random = np.random.default_rng(0)

    def draw(self, index: Tensor) -> Tensor:
        rows = [
            self.random.choice(self.others[self.labels[number]], self.num_negatives, replace=False)
            for number in index.tolist()
        ]
        return torch.from_numpy(np.stack(rows)).to(index.device)

    def forward(
        self, student: Tensor, teacher: Tensor, index: Tensor, *, drawn: Tensor | None = None
    ) -> Tensor:
        student = F.normalize(self.projections.student(student), dim=1)
        teacher = F.normalize(self.projections.teacher(teacher), dim=1)
        chosen = torch.cat([index.unsqueeze(1), self.draw(index) if drawn is None else drawn], 1)
        student_bank, teacher_bank = self.banks
        scores = [
            ((bank[chosen] @ rows.unsqueeze(2)).squeeze(2) / self.temperature).exp()
            for rows, bank in ((student, teacher_bank), (teacher, student_bank))
        ]
        if self.normalisers is None:
            self.normalisers = [score.detach().mean() * len(student_bank) for score in scores]
        noise = self.num_negatives / len(student_bank)
        loss = student.new_zeros(())
        for score, normaliser in zip(scores, self.normalisers, strict=True):
            probability = score / normaliser
            positive, negatives = probability[:, 0], probability[:, 1:]
            hit = (positive / (positive + noise)).log()
            missed = (noise / (negatives + noise)).log().sum(1)
            loss = loss - (hit + missed).mean()
        with torch.no_grad():
            for bank, rows in ((student_bank, student), (teacher_bank, teacher)):
                moved = self.momentum * bank[index] + (1 - self.momentum) * rows
                bank[index] = F.normalize(moved, dim=1)
        return loss


class GatheredCRD(CRDLoss):
    """gkd's CRD for banks too large for one product: the rows of the negatives are gathered."""

    dense = False


def gathered_crd(ours: CRDLoss) -> GatheredCRD:
    """The same weights, banks and negatives."""
    sides = (ours.projections.student, ours.projections.teacher)
    gathered = GatheredCRD(*[(side.in_features,) for side in sides], labels=training_labels())
    gathered.load_state_dict(ours.state_dict())
    return gathered.to(ours.order.device, ours.student_bank.dtype)


@dataclass(frozen=True)
class Form:
    """A way to compute a loss.

    Attributes:
        make: from what computes gkd's loss (its function or module) what computes it this way.
        needs_bytes: what it takes at a batch size and a width of the embedding, roughly.
        growth: the power of B that its time grows with.
        small: a batch small enough to compare values on, and large enough that they are not 0.
        draws: whether it draws its own negatives, so that its value is another one.
    """

    make: Callable[[Any], Callable[..., Tensor]]
    needs_bytes: Callable[[int, int], float]
    growth: int = 1
    small: int = 2
    draws: bool = False


def _nst_bytes(batch: int, width: int) -> float:
    # The products, and in backward the gradient of one factor at a time before it is summed.
    shapes = [MAPS[int(spot)] for (spot,) in READINGS["nst"]]
    return max(2.2 * FLOAT * batch * c * c * h * w for c, h, w in shapes)


def _fsp_bytes(batch: int, width: int) -> float:
    pairs = [(MAPS[int(before)], MAPS[int(after)]) for before, after in READINGS["fsp"]]
    return max(3 * FLOAT * batch * b[0] * a[0] * a[1] * a[2] for b, a in pairs)


def _rkd_bytes(batch: int, width: int) -> float:
    # The directions, the cosines, and their like in backward.
    return 3 * FLOAT * batch**2 * (batch + width)


def _crd_bytes(batch: int, width: int) -> float:
    options = LOSSES["crd"].options
    # The gathered rows of both banks, and a few matrices of scores.
    return 2 * FLOAT * batch * (1 + options["negatives"]) * (options["dim"] + 6)


def _tuple_bytes(batch: int, width: int) -> float:
    # Eight int64 entries a triplet, and each triplet compared with all when pairs are merged.
    return 64 * batch**3 / CLASSES


FORMS: dict[str, dict[str, Form]] = {
    "nst": {"broadcast": Form(lambda ours: nst_broadcast, _nst_bytes)},
    "fsp": {
        "broadcast": Form(lambda ours: fsp_broadcast, _fsp_bytes),
        "loop": Form(lambda ours: fsp_loop, lambda batch, width: 0.0),
    },
    "rkd_angle": {"B³": Form(lambda ours: rkd_angle_cubic, _rkd_bytes, growth=3)},
    # Triplets grow with B³ and each pair scans them all, up to B⁵; B⁴ is what small sizes show.
    "tuples": {"Python merge": Form(lambda ours: official_loss, _tuple_bytes, growth=4, small=64)},
    "crd": {
        "host-side draws": Form(HostSampledCRD, _crd_bytes, draws=True),
        "gathered rows": Form(gathered_crd, _crd_bytes, draws=True),
    },
}
