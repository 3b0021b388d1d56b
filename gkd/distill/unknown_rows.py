"""Classes that the teacher lacks, in a stage that trades the cross-entropy against the teacher's logits.

KD at its published weights is 0.1 of cross-entropy and 0.9 of the teacher. Where the teacher knows only some of the
classes, S, that exchange is fair for one thing alone: which class of S a row is that is of one of them. On a row of
another class the teacher is silent, and on no row does it say whether the class is in S at all. Both parts keep the
cross-entropy with weight 1. With w the weight of the cross-entropy, v that of the teacher's term, k_i the share of row
i's label that is in S (0 or 1; between them for a mixture of images),

    loss = mean over rows i of  w CE_i + (1 − w) coarse CE_i + v k_i KD_i,

where the coarse cross-entropy takes all classes of S as one: on a row of another class it is the cross-entropy, on one
of S it is −log P(S). Of a mixture a loss that takes no weights reads those alone whose images are all of S.

Ours. ``unknown_rows: published`` of a stage leaves the published weights on every row, and the teacher's term the mean
over the rows that it reads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.core.batch import Batch
from gkd.core.numerics import upcast, zero_unselected
from gkd.distill.outputs import Outputs
from gkd.distill.side import Side
from gkd.losses._common import mean_over_rows
from gkd.methods.terms import Term, reduces_cross_entropy


def on_known_rows(term: Term, side: Side) -> bool:
    """Whether a term on a teacher's logits leaves out the rows of classes that the teacher lacks, as the task says."""
    return (
        term.needs_shared_classes
        and not side.all_known
        and side.rows == "known"
        and term.rows in (None, "known")
    )


def rest_of_cross_entropy(term: Term, outputs: Mapping[str, Outputs], sides: Collection[Side]) -> Tensor:
    """The coarse cross-entropy of a step, 0-dim: over the classes in which those that all of the teachers know are one.

    Args:
        term: a cross-entropy.
        outputs: of the step, by the terms' samples.
        sides: those of the teachers whose logits the stage reads in exchange.
    """
    read = outputs[term.samples]
    known = torch.stack([side.known for side in sides]).all(0)
    smoothing = float(term.options["label_smoothing"])
    return coarse_cross_entropy(
        read.student.logits, read.batch.labels, known, label_smoothing=smoothing, mask=read.batch.labelled
    )


def coarse_cross_entropy(
    logits: Tensor, labels: Tensor, known: Tensor, *, label_smoothing: float = 0.0, mask: Tensor | None = None
) -> Tensor:
    """``mean_i −Σ_{c ∉ S} q_ic log p_ic − (Σ_{c ∈ S} q_ic) log Σ_{c ∈ S} p_ic`` with ``p = softmax(z)``, S the known.

    Args:
        logits: the student's ``[B, C]``.
        labels: int64 ``[B]``, columns, or distributions ``[B, C]``; not read in unselected rows.
        known: Bool ``[C]``, S.
        label_smoothing: ε of ``q_i = (1 − ε) onehot(y_i) + ε / C``.
        mask: Bool ``[B]``, the rows that count; None means all.
    """
    logits = upcast(zero_unselected(logits, mask))
    labels = zero_unselected(labels, mask)
    target = F.one_hot(labels, logits.shape[1]) if labels.dim() == 1 else labels
    target = (1 - label_smoothing) * target.to(logits.dtype) + label_smoothing / logits.shape[1]
    log_probabilities = logits.log_softmax(1)
    alone = torch.where(known, 0, target * log_probabilities).sum(1)
    # A finite fill: a teacher that knows nothing would give −inf, and NaN as its gradient.
    together = log_probabilities.masked_fill(~known, torch.finfo(logits.dtype).min / 4).logsumexp(1)
    share = torch.where(known, target, 0).sum(1)
    return -mean_over_rows(alone + torch.where(share > 0, share * together, 0), mask)


def share_of(rows: Tensor, batch: Batch) -> Tensor:
    """The share of the batch's labelled rows that some rows are, 0-dim float64."""
    count = len(rows) if batch.labelled is None else batch.labelled.sum().clamp_min(1)
    return rows.sum().double() / count


def traded(terms: Mapping[str, Term], sides: Mapping[str, Side]) -> dict[str, Side]:
    """The terms on a teacher's logits that a stage gives a part of the cross-entropy's weight to, with their sides.

    Args:
        terms: all of the stage, one for each teacher that it reads.
        sides: term -> the side of its teacher, of those that read one.
    """
    if not reduces_cross_entropy(terms.values()):
        return {}
    return {
        name: side for name, side in sides.items() if terms[name].weight and on_known_rows(terms[name], side)
    }
