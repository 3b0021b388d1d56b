"""Losses: what is matched. Pure functions of tensors, and the registry that methods name them by."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from gkd.losses.affinity import affinity_loss, affinity_refusal
from gkd.losses.angles import rkd_angle_loss
from gkd.losses.induced import class_centres, induced_classifier_loss, induced_logits, teacher_confidence
from gkd.losses.maps import at_loss, fsp_loss, ickd_loss, nst_loss
from gkd.losses.responses import cross_entropy_loss, dist_loss, dkd_loss, kd_loss
from gkd.losses.similarity import cc_loss, cc_neighbour_loss, pkt_loss, rkd_distance_loss, sp_loss
from gkd.losses.tuples import tuple_loss, tuple_loss_and_count

__all__ = [
    "AT_SPOTS",
    "LOSSES",
    "NEEDS",
    "Loss",
    "affinity_loss",
    "affinity_refusal",
    "at_loss",
    "cc_loss",
    "cc_neighbour_loss",
    "class_centres",
    "cross_entropy_loss",
    "dist_loss",
    "dkd_loss",
    "fsp_loss",
    "ickd_loss",
    "induced_classifier_loss",
    "induced_logits",
    "kd_loss",
    "nst_loss",
    "pkt_loss",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "sp_loss",
    "teacher_confidence",
    "tuple_loss",
    "tuple_loss_and_count",
]

# What a loss may ask for, by the names of its positional parameters. ``student`` and ``student_map`` are the
# output at the term's spot, ``student_map_after`` the one at the spot that follows it in the term's list.
NEEDS = (
    "student_logits",
    "teacher_logits",
    "student_embedding",
    "teacher_embedding",
    "student",
    "teacher",
    "student_map",
    "student_map_after",
    "teacher_map",
    "teacher_map_after",
    "labels",
    "index",
    "centres",
)

# Those of them that a term's spots decide.
AT_SPOTS = ("student", "teacher", "student_map", "student_map_after", "teacher_map", "teacher_map_after")

# Keyword-only parameters that the caller fills per batch; the others are hyper-parameters.
PER_BATCH = ("mask", "weights")


@dataclass(frozen=True)
class Loss:
    """A loss as a method sees it.

    Attributes:
        function: the pure function; it returns a 0-dim tensor.
        paper: where it was published.
        counted: the same function returning ``(loss, count)``, where the loss is a mean over a
            number that the batch decides.
        refusal: why a set of options is undefined together, or None; asked before training.
    """

    function: Callable[..., Tensor]
    paper: str
    counted: Callable[..., tuple[Tensor, Tensor]] | None = None
    refusal: Callable[[dict[str, Any]], str | None] | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """What the loss is handed, in order; each name is one of `NEEDS`."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)

    @property
    def options(self) -> dict[str, Any]:
        """The hyper-parameters and their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in PER_BATCH}

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """The allowed words of each option that takes a word."""
        hints = get_type_hints(self.function)
        return {name: get_args(hints[name]) for name in self.options if get_origin(hints[name]) is Literal}

    @property
    def takes_weights(self) -> bool:
        """Whether the loss can weight its samples."""
        return "weights" in inspect.signature(self.function).parameters


def _affinity_refusal(options: dict[str, Any]) -> str | None:
    names = ("affinity", "normalisation", "distance", "degree")
    return affinity_refusal(**{name: options[name] for name in names})


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(cross_entropy_loss, "label smoothing: Szegedy et al., CVPR 2016"),
    "kd": Loss(kd_loss, "Hinton, Vinyals, Dean 2015"),
    "dkd": Loss(dkd_loss, "Zhao et al., CVPR 2022"),
    "dist": Loss(dist_loss, "Huang et al., NeurIPS 2022"),
    "affinity": Loss(affinity_loss, "Li, Maki 2022", refusal=_affinity_refusal),
    "sp": Loss(sp_loss, "Tung, Mori, ICCV 2019"),
    "pkt": Loss(pkt_loss, "Passalis, Tefas, ECCV 2018"),
    "rkd_distance": Loss(rkd_distance_loss, "Park, Kim, Lu, Cho, CVPR 2019"),
    "rkd_angle": Loss(rkd_angle_loss, "Park, Kim, Lu, Cho, CVPR 2019"),
    "cc": Loss(cc_loss, "Peng et al., ICCV 2019"),
    "cc_neighbour": Loss(cc_neighbour_loss, "RepDistiller, after Peng et al., ICCV 2019"),
    "at": Loss(at_loss, "Zagoruyko, Komodakis, ICLR 2017"),
    "nst": Loss(nst_loss, "Huang, Wang 2017"),
    "fsp": Loss(fsp_loss, "Yim, Joo, Bae, Kim, CVPR 2017"),
    "ickd": Loss(ickd_loss, "Liu et al., ICCV 2021"),
    "tuples": Loss(tuple_loss, "Ye, Lu, Zhan, CVPR 2020 and TPAMI 2022", counted=tuple_loss_and_count),
    "induced_classifier": Loss(induced_classifier_loss, "Ye, Lu, Zhan, CVPR 2020 and TPAMI 2022"),
}
