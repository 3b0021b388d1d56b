"""The modules of a stage's terms that own parameters or state: projectors, banks, queues, auxiliary heads."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.network import module_key
from gkd.core.tapped import Shapes
from gkd.distill.fit_check import shapes_of_reading
from gkd.methods.terms import Term
from gkd.models import AuxiliaryHead, newest_dim


def build_adapters(
    terms: Mapping[str, Term],
    network: nn.Module,
    known: Tensor,
    shapes: tuple[Shapes | None, Mapping[str, Shapes]],
    train_labels: Tensor | None,
    shared: Mapping[str, int],
) -> nn.ModuleDict:
    """Build the modules of terms that need some: term name -> one for each pair of spots.

    Args:
        terms: each of one teacher at most.
        network: the student.
        known: Bool ``[C]``, the student's columns of old classes.
        shapes: of one sample's outputs, the student's and each teacher's; None where the images' shape is not known.
        train_labels: int64 ``[N]``, the training set's labels by sample number.
        shared: term -> how many classes its teacher shares with the student; without a term that reads none.

    Raises:
        UserError: shapes or labels that a module is built from were not given.
    """
    adapters = nn.ModuleDict()
    student, teachers = shapes
    for name, term in terms.items():
        key = module_key(name)
        if term.head == "auxiliary":
            adapters[key] = nn.ModuleList([AuxiliaryHead(newest_dim(network), known)])
        if term.entry.module is None:
            continue
        if student is None and term.entry.built_from_shapes:
            raise UserError(
                f"The term {name!r} owns parameters; give image_shape=(C, H, W), from which theirs follow.",
                code="needs-image-shape",
            )
        if term.entry.takes_labels and train_labels is None:
            raise UserError(
                f"The term {name!r} keeps memory banks; give train_labels, one a sample.",
                code="needs-train-labels",
            )
        adapters[key] = nn.ModuleList(
            term.entry.build(
                shapes_of_reading(term, reading, student, teachers) if student else (),
                term.options,
                train_labels,
                shared.get(name, int(known.numel())),
            )
            for reading in term.readings
        )
    return adapters
