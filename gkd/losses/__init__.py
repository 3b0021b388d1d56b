"""Losses: what is matched. Pure functions of tensors, and the registry that methods name them by."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from gkd.core.class_means import class_centres, induced_logits
from gkd.losses.affinity import affinity_loss, affinity_refusal
from gkd.losses.angles import rkd_angle_loss
from gkd.losses.contrastive import CRDLoss, CRDQueueLoss, info_nce_loss, nce_loss
from gkd.losses.episodes import episode_induced_loss, prototype_loss
from gkd.losses.incremental import (
    binary_cross_entropy_loss,
    binary_kd_loss,
    cross_entropy_new_loss,
    margin_ranking_loss,
    nca_loss,
)
from gkd.losses.induced import induced_classifier_loss, teacher_confidence
from gkd.losses.maps import at_loss, fsp_loss, ickd_loss, nst_loss, pod_loss
from gkd.losses.modules import (
    CCNeighbourLoss,
    FactorTransferLoss,
    HintLoss,
    ICKDLoss,
    VIDLoss,
    factor_transfer_loss,
    hint_loss,
    vid_loss,
)
from gkd.losses.option_ranges import range_problem
from gkd.losses.regressors import Regressor
from gkd.losses.responses import cross_entropy_loss, dist_loss, dkd_loss, kd_loss, stkd_loss
from gkd.losses.similarity import (
    cc_loss,
    cc_neighbour_loss,
    cosine_loss,
    ird_loss,
    pkt_loss,
    rkd_distance_loss,
    sp_loss,
)
from gkd.losses.tuples import tuple_loss, tuple_loss_and_count

__all__ = [
    "AT_SPOTS",
    "IN_EPISODES",
    "LOSSES",
    "NEEDS",
    "CCNeighbourLoss",
    "CRDLoss",
    "CRDQueueLoss",
    "FactorTransferLoss",
    "HintLoss",
    "ICKDLoss",
    "Loss",
    "Regressor",
    "VIDLoss",
    "affinity_loss",
    "affinity_refusal",
    "at_loss",
    "binary_cross_entropy_loss",
    "binary_kd_loss",
    "cc_loss",
    "cc_neighbour_loss",
    "class_centres",
    "cosine_loss",
    "cross_entropy_loss",
    "cross_entropy_new_loss",
    "dist_loss",
    "dkd_loss",
    "episode_induced_loss",
    "factor_transfer_loss",
    "fsp_loss",
    "hint_loss",
    "ickd_loss",
    "induced_classifier_loss",
    "induced_logits",
    "info_nce_loss",
    "ird_loss",
    "kd_loss",
    "margin_ranking_loss",
    "nca_loss",
    "nce_loss",
    "nst_loss",
    "pkt_loss",
    "pod_loss",
    "prototype_loss",
    "range_problem",
    "reads_teacher",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "sp_loss",
    "stkd_loss",
    "teacher_confidence",
    "tuple_loss",
    "tuple_loss_and_count",
    "vid_loss",
]

# What a loss may ask for, by the names of its positional parameters. ``student`` and ``student_map`` are the
# output at the term's spot, ``student_map_after`` the one at the spot that follows it in the term's list. ``known`` is
# Bool [C], the student's columns that the teacher has: all False without a teacher, so that a loss over the other
# classes works in a first step too. ``student_cosines`` and ``student_scale`` come from a head that has them
# (``gkd.models.heads``).
NEEDS = (
    "student_logits",
    "teacher_logits",
    "student_embedding",
    "teacher_embedding",
    "student_cosines",
    "student_scale",
    "student",
    "teacher",
    "student_map",
    "student_map_after",
    "teacher_map",
    "teacher_map_after",
    "labels",
    "index",
    "centres",
    "way",
    "support",
    "known",
)

# Those of them that an episode alone has.
IN_EPISODES = ("way", "support")

# Those of them that a term's spots decide.
AT_SPOTS = ("student", "teacher", "student_map", "student_map_after", "teacher_map", "teacher_map_after")

# Keyword-only parameters that the caller fills, per batch or per run; the others are hyper-parameters.
FILLED = ("mask", "weights", "drawn", "labels")


@dataclass(frozen=True)
class Loss:
    """A loss as a method sees it.

    Attributes:
        function: the pure function; it returns a 0-dim tensor.
        paper: where it was published.
        counted: the same function returning ``(loss, count)``, where the loss is a mean over a
            number that the batch decides.
        refusal: why a set of options is undefined together, or None; asked before training.
        module: what owns parameters or state around the function, where anything does; built from the shapes of one
            sample on both sides, it is what a method then calls.
        takes_mixed_labels: whether ``labels`` may be a distribution over classes.
        prepared_by: the options that a term of the same name must have in an earlier stage, for some options; None
            where nothing must come first.
    """

    function: Callable[..., Tensor]
    paper: str
    counted: Callable[..., tuple[Tensor, Tensor]] | None = None
    refusal: Callable[[dict[str, Any]], str | None] | None = None
    module: type[nn.Module] | None = None
    takes_mixed_labels: bool = False
    prepared_by: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None

    @property
    def public_name(self) -> str:
        """The name in ``gkd.losses`` of what a method calls."""
        return (self.module or self.function).__name__

    @property
    def called(self) -> Callable[..., Tensor]:
        """What takes the tensors: the module's forward, or the function."""
        return self.module.forward if self.module else self.function

    @property
    def configured(self) -> Callable[..., Any]:
        """What takes the hyper-parameters: the module's constructor, or the function."""
        return self.module.__init__ if self.module else self.function

    @property
    def needs(self) -> tuple[str, ...]:
        """What the loss is handed, in order; each name is one of `NEEDS`."""
        return positional(self.called)

    @property
    def options(self) -> dict[str, Any]:
        """The hyper-parameters and their defaults."""
        parameters = inspect.signature(self.configured).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in FILLED}

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """The allowed words of each option that takes a word."""
        hints = get_type_hints(self.configured)
        return {name: get_args(hints[name]) for name in self.options if get_origin(hints[name]) is Literal}

    @property
    def takes_weights(self) -> bool:
        """Whether the loss can weight its samples."""
        return "weights" in inspect.signature(self.called).parameters

    @property
    def takes_labels(self) -> bool:
        """Whether the module is built from the training set's labels."""
        return "labels" in inspect.signature(self.configured).parameters and self.module is not None


def reads_teacher(needs: Iterable[str]) -> bool:
    """Whether something among what a loss reads comes from a teacher."""
    return any(need.startswith("teacher") or need == "centres" for need in needs)


def positional(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's positional parameters, without ``self``."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self")


def _affinity_refusal(options: dict[str, Any]) -> str | None:
    names = ("affinity", "normalisation", "distance", "degree")
    return affinity_refusal(**{name: options[name] for name in names})


def _paraphraser_first(options: dict[str, Any]) -> dict[str, Any] | None:
    return {"phase": "paraphraser", "rate": options["rate"]} if options["phase"] == "transfer" else None


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(
        cross_entropy_loss, "label smoothing: Szegedy et al., CVPR 2016", takes_mixed_labels=True
    ),
    "kd": Loss(kd_loss, "Hinton, Vinyals, Dean 2015"),
    "dkd": Loss(dkd_loss, "Zhao et al., CVPR 2022"),
    "stkd": Loss(stkd_loss, "Zhao, Gong, Sun, Dong, Yu 2021", takes_mixed_labels=True),
    "dist": Loss(dist_loss, "Huang et al., NeurIPS 2022"),
    "affinity": Loss(affinity_loss, "Li, Maki 2022", refusal=_affinity_refusal),
    "sp": Loss(sp_loss, "Tung, Mori, ICCV 2019"),
    "pkt": Loss(pkt_loss, "Passalis, Tefas, ECCV 2018"),
    "rkd_distance": Loss(rkd_distance_loss, "Park, Kim, Lu, Cho, CVPR 2019"),
    "rkd_angle": Loss(rkd_angle_loss, "Park, Kim, Lu, Cho, CVPR 2019"),
    "cc": Loss(cc_loss, "Peng et al., ICCV 2019"),
    "cc_neighbour": Loss(
        cc_neighbour_loss, "RepDistiller, after Peng et al., ICCV 2019", module=CCNeighbourLoss
    ),
    "at": Loss(at_loss, "Zagoruyko, Komodakis, ICLR 2017"),
    "nst": Loss(nst_loss, "Huang, Wang 2017"),
    "fsp": Loss(fsp_loss, "Yim, Joo, Bae, Kim, CVPR 2017"),
    "ickd": Loss(ickd_loss, "Liu et al., ICCV 2021", module=ICKDLoss),
    "fitnet": Loss(hint_loss, "Romero et al., ICLR 2015", module=HintLoss),
    "vid": Loss(vid_loss, "Ahn et al., CVPR 2019", module=VIDLoss),
    "ft": Loss(
        factor_transfer_loss,
        "Kim, Park, Kwak, NeurIPS 2018",
        module=FactorTransferLoss,
        prepared_by=_paraphraser_first,
    ),
    "crd": Loss(nce_loss, "Tian, Krishnan, Isola, ICLR 2020", module=CRDLoss),
    "crd_queue": Loss(info_nce_loss, "ours, after Tian, Krishnan, Isola, ICLR 2020", module=CRDQueueLoss),
    "tuples": Loss(tuple_loss, "Ye, Lu, Zhan, CVPR 2020 and TPAMI 2022", counted=tuple_loss_and_count),
    "induced_classifier": Loss(induced_classifier_loss, "Ye, Lu, Zhan, CVPR 2020 and TPAMI 2022"),
    "prototype": Loss(prototype_loss, "Snell, Swersky, Zemel, NeurIPS 2017"),
    "episode_induced": Loss(episode_induced_loss, "ours, after Ye, Lu, Zhan, CVPR 2020 and TPAMI 2022"),
    "cross_entropy_new": Loss(cross_entropy_new_loss, "Li, Hoiem, ECCV 2016"),
    "binary_cross_entropy": Loss(binary_cross_entropy_loss, "Rebuffi et al., CVPR 2017"),
    "binary_kd": Loss(binary_kd_loss, "Rebuffi et al., CVPR 2017"),
    "cosine": Loss(cosine_loss, "Hou, Pan, Loy, Wang, Lin, CVPR 2019"),
    "margin_ranking": Loss(margin_ranking_loss, "Hou, Pan, Loy, Wang, Lin, CVPR 2019"),
    "pod": Loss(pod_loss, "Douillard et al., ECCV 2020"),
    "nca": Loss(nca_loss, "Douillard et al., ECCV 2020"),
    "ird": Loss(ird_loss, "Cha, Lee, Shin, ICCV 2021"),
}
