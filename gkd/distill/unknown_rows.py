"""Rows of classes that the teacher lacks, in a stage that trades the cross-entropy against the teacher's logits.

KD at its published weights is 0.1 of cross-entropy and 0.9 of the teacher. Where the teacher knows only some of the
classes, a row of another one would learn from a tenth of its label alone. So each row has the mixture that its label
allows: with k, the share of its label that the teacher knows (0 or 1; between them for a mixture of images), w the
weight of the cross-entropy and v that of the teacher's term,

    loss = mean over rows i of  k_i (w CE_i + v KD_i) + (1 − k_i) CE_i.

Ours. ``unknown_rows: published`` of a stage leaves the published weights on every row, and the teacher's term the mean
over the rows that it reads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from gkd.core.batch import Batch
from gkd.distill.inputs import Outputs, known_share
from gkd.distill.side import Side
from gkd.losses.signature import Filled
from gkd.methods.terms import Term


def on_known_rows(term: Term, side: Side) -> bool:
    """Whether a term on a teacher's logits leaves out the rows of classes that the teacher lacks, as the task says."""
    return (
        term.needs_shared_classes
        and not side.all_known
        and side.rows == "known"
        and term.rows in (None, "known")
    )


def rest_of_cross_entropy(term: Term, outputs: Mapping[str, Outputs], sides: Collection[Side]) -> Tensor:
    """``Σ_i (1 − k_i) CE_i / n`` over the n labelled rows of a batch, 0-dim; k_i is the most that any teacher knows.

    Args:
        term: a cross-entropy.
        outputs: of the step, by the terms' samples.
        sides: those of the teachers whose logits the stage reads in exchange.
    """
    read = outputs[term.samples]
    shares = torch.stack([known_share(read.batch.labels, side.known) for side in sides]).amax(0)
    rows = shares < 1
    if read.batch.labelled is not None:
        rows = rows & read.batch.labelled
    entry = term.entry
    filled = {entry.filled[Filled.MASK]: rows, entry.filled[Filled.WEIGHTS]: 1 - shares}
    inputs = [read.student.logits, read.batch.labels]
    value: Tensor = entry.call(entry.function, inputs, {**term.options, **filled})
    return share_of(rows, read.batch).to(value.dtype) * value


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
    if not any(term.is_reduced_cross_entropy for term in terms.values()):
        return {}
    return {name: side for name, side in sides.items() if on_known_rows(terms[name], side)}
