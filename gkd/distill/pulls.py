"""How hard each term pulls on the student: the norms of their gradients on its outputs, beside the cross-entropy's.

Published weights belong to a batch size, to widths and to a loss's reduction; the ratio of two gradients on the same
output does not. A term is measured on the embedding where its gradient reaches it, else on the deepest map that it
reads, and the cross-entropy there too; where the outputs below the head are frozen, on the logits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from gkd.core.batch import Batch
from gkd.core.errors import UserError
from gkd.core.network import Features
from gkd.distill.distiller import Distiller
from gkd.distill.peers import Mutual
from gkd.storage.weights import copy_state


def measure_weights(
    distiller: Distiller | Mutual,
    batches: Iterable[Batch],
    autocast: AbstractContextManager[object] | None = None,
) -> dict[str, float]:
    """Give the terms with a relative weight theirs, measured on these batches; the weights by term.

    Args:
        distiller: before its first step.
        batches: as many as any of the weights asks for; more are not read.
        autocast: as in training; None computes as the networks are.

    Raises:
        UserError: a term that does not pull on the student.
    """
    measured = distiller.measured
    if measured.wanted:
        measured.set(pulls(distiller, itertools.islice(batches, measured.batches), autocast or nullcontext()))
    return measured.shown()


def pulls(
    distiller: Distiller | Mutual, batches: Iterable[Batch], autocast: AbstractContextManager[object]
) -> dict[str, float]:
    """The norm of each term's gradient over the cross-entropy's, both weighted and over all batches.

    A weight that is yet to be measured counts as 1. Nothing changes: neither weights, statistics and banks nor random
    generators.

    Args:
        distiller: of a stage that has a cross-entropy.
        batches: on the distiller's device.
        autocast: as in training.

    Returns:
        Term -> ratio, 1 for a single cross-entropy; 0 of a term that has no gradient where the cross-entropy has one.

    Raises:
        UserError: no cross-entropy to compare with.
    """
    fixed = [
        n for n, term in distiller.groups.items() if term.is_cross_entropy and n not in distiller.measured
    ]
    base = [name for name in fixed if distiller.scales[name] > 0]
    if not base:
        raise UserError(
            "What the terms pull is compared with the cross-entropy, but there is none; add one, or give the terms "
            "numbers as weights.",
            code="no-cross-entropy",
        )
    was_training = distiller.training
    ours, theirs = dict.fromkeys(distiller.groups, 0.0), dict.fromkeys(distiller.groups, 0.0)
    state, device = copy_state(distiller), distiller.known.device
    distiller.train()
    try:
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            for batch in batches:
                for name, (own, reference) in _norms(distiller, batch, base, autocast).items():
                    ours[name] += own
                    theirs[name] += reference
    finally:
        distiller.load_state_dict(state)
        distiller.train(was_training)
    return {name: own / theirs[name] if theirs[name] else 0.0 for name, own in ours.items()}


def _norms(
    distiller: Distiller | Mutual, batch: Batch, base: Sequence[str], autocast: AbstractContextManager[object]
) -> dict[str, tuple[float, float]]:
    """Term -> the norms of its gradient on one batch and of the cross-entropy's, at the deepest output of both."""
    with autocast:
        outputs = distiller.outputs(batch)
        with torch.autocast(batch.images.device.type, enabled=False):
            values, _ = distiller.term_values(outputs, None)
            rest = distiller.rest_of_cross_entropy(outputs)
    measured = distiller.measured.shown()
    scales = {name: scale * measured.get(name, 1.0) for name, scale in distiller.scales.items()}
    places = {samples: _places(each.student) for samples, each in outputs.items()}
    references = {samples: [0.0] * len(each) for samples, each in places.items()}
    for samples in {distiller.groups[name].samples for name in base}:
        hard = [scales[name] * values[name] for name in base if distiller.groups[name].samples == samples]
        if rest is not None and distiller.groups[base[0]].samples == samples:
            hard.append(rest)
        for number, gradient in enumerate(_gradients(torch.stack(hard).sum(), places[samples])):
            # A cross-entropy on one kind of samples is the measure of terms on the other too.
            for each in references.values():
                each[number] += gradient
    norms = {}
    for name, value in values.items():
        samples = distiller.groups[name].samples
        own = _gradients(value, places[samples])
        pairs = [
            (scales[name] * norm, reference)
            for norm, reference in zip(own, references[samples], strict=True)
            if norm and reference
        ]
        # A batch in which the term is silent counts for the cross-entropy.
        norms[name] = pairs[0] if pairs else (0.0, next(filter(None, references[samples]), 0.0))
    return norms


def _places(student: Features) -> list[Tensor]:
    """The student's outputs at which gradients are compared, in the order of preference."""
    return [student.embedding, *reversed(student.maps), student.logits]


def _gradients(value: Tensor, places: Sequence[Tensor]) -> list[float]:
    """The norm of a value's gradient at each place; 0 where it does not depend on it."""
    open_places = [place for place in places if place.requires_grad]
    if not value.requires_grad or not open_places:
        return [0.0] * len(places)
    found = iter(torch.autograd.grad(value, open_places, retain_graph=True, allow_unused=True))
    gradients = [next(found) if place.requires_grad else None for place in places]
    return [0.0 if gradient is None else float(gradient.double().norm()) for gradient in gradients]
