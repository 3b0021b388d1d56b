"""The outputs of student and teachers in one step, for the clean images and for virtual samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gkd.core.batch import Batch
from gkd.core.network import Features
from gkd.distill.mixing import Mixture, draw_mixture, mix_batch
from gkd.distill.side import Side
from gkd.methods.mixup import Mixup
from gkd.methods.terms import Term


@dataclass(frozen=True)
class Outputs:
    """A batch, the networks' outputs for it, and its mixture.

    Attributes:
        teachers: the outputs of each teacher that a term reads, by its name.
        mixture: the images and weights by which the teachers' distributions are interpolated; None where they
            are not.
        peer: the outputs of the student that is trained beside it, without their graph; None where there is none.
    """

    batch: Batch
    student: Features
    teachers: Mapping[str, Features]
    mixture: Mixture | None = None
    peer: Features | None = None


def run_networks(
    batch: Batch,
    student: Any,
    sides: Mapping[str, Side],
    readers: Mapping[str, str | None],
    terms: Mapping[str, Term],
    mixup: Mixup | None,
) -> dict[str, Outputs]:
    """The outputs that the terms read, for the clean images and for virtual samples mixed from them.

    Args:
        batch: the samples of the step.
        student: the network that is trained.
        sides: the teachers' sides by name.
        readers: term -> the name of the teacher that it reads; None where it reads none.
        terms: the terms of the stage.
        mixup: how virtual samples are made, where a term is on them.

    Returns:
        Outputs by the terms' ``samples``: ``clean``, ``virtual`` or both.
    """
    outputs = {}
    clean = {}
    before = {
        name: any(term.reads_preact("teacher") for key, term in terms.items() if readers[key] == name)
        for name in sides
    }
    asked = {"preact": True} if any(term.reads_preact("student") for term in terms.values()) else {}
    for number, (name, side) in enumerate(sides.items()):
        if name in batch.outputs:
            clean[name] = batch.outputs[name]
        elif number == 0 and batch.teacher is not None:
            clean[name] = batch.teacher
        elif reads_clean(name, readers, terms, mixup):
            clean[name] = side.features(batch, preact=before[name])
    samples = {term.samples for term in terms.values()}
    if "clean" in samples:
        outputs["clean"] = Outputs(batch, student.features(batch.images, **asked), clean)
    if "virtual" in samples and mixup is not None:
        height, width = batch.images.shape[-2:]
        mixture = draw_mixture(mixup, len(batch.labels), batch.images.device, (height, width))
        virtual = mix_batch(batch, mixture, student.num_classes)
        features = student.features(virtual.images, **asked)
        if mixup.teacher == "interpolated":
            outputs["virtual"] = Outputs(virtual, features, clean, mixture)
        else:
            read = {readers[name] for name, term in terms.items() if term.samples == "virtual"}
            mixed = {
                name: side.features(virtual, preact=before[name])
                for name, side in sides.items()
                if name in read
            }
            outputs["virtual"] = Outputs(virtual, features, mixed)
    return outputs


def reads_clean(
    teacher: str, readers: Mapping[str, str | None], terms: Mapping[str, Term], mixup: Mixup | None
) -> bool:
    """Whether a term reads a teacher's outputs for the clean images."""
    interpolates = mixup is not None and mixup.teacher == "interpolated"
    return any(
        readers[name] == teacher and (term.samples == "clean" or interpolates) for name, term in terms.items()
    )
