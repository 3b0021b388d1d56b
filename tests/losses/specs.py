"""One row per loss for the contract test: inputs, a reference by plain loops, and the exceptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .references import Inputs
from .references.affinity import (
    affinity_reference,
    cc_neighbour_reference,
    cc_reference,
    make_embeddings_alike,
    make_embeddings_alone,
    make_maps,
    make_sides,
    pkt_reference,
    rkd_angle_reference,
    rkd_distance_reference,
    sp_reference,
)
from .references.embeddings import (
    coss_reference,
    make_centres,
    make_queue,
    norm_direction_reference,
    queue_similarity_reference,
    regression_reference,
    rsd_reference,
    to_the_centres,
    uncorrelated,
)
from .references.episodes import (
    episode_induced_reference,
    make_episode,
    make_episode_of_both,
    one_shot_alike,
    prototype_reference,
)
from .references.every_map import (
    boundary_reference,
    calibrated_reference,
    context_reference,
    make_attended,
    make_behind_margin,
    make_same_maps,
    make_wide_flows,
    partial_reference,
    singular_reference,
)
from .references.incremental import (
    binary_cross_entropy_reference,
    binary_kd_reference,
    cosine_reference,
    cross_entropy_new_reference,
    ird_reference,
    make_cosines,
    make_new,
    make_scaled_cosines,
    margin_ranking_reference,
    nca_reference,
    pod_reference,
)
from .references.maps import (
    at_reference,
    fsp_reference,
    ickd_reference,
    make_flows,
    make_maps_alike,
    make_pooled,
    nst_reference,
    simkd_reference,
)
from .references.modules import (
    factor_transfer_reference,
    hint_reference,
    info_nce_reference,
    make_allowed,
    make_hints,
    make_scores,
    make_variational,
    nce_reference,
    vid_reference,
)
from .references.refilled import (
    induced_matched,
    induced_reference,
    make_embeddings,
    make_induced,
    tuple_reference,
)
from .references.responses import (
    cross_entropy_reference,
    dist_reference,
    dkd_reference,
    kd_reference,
    make_logits,
    make_logits_and_labels,
    make_logits_both,
    make_mixed,
    make_peers,
    mutual_reference,
    nkd_reference,
    stkd_reference,
    ttm_reference,
    wsld_reference,
)


@dataclass(frozen=True)
class Spec:
    """What the contract test knows about a loss.

    Attributes:
        make: inputs by the loss's own parameter names, float64, for a batch size.
        reference: the loss by plain Python loops, with the loss's own signature (without mask).
        matched: the inputs changed so that the student equals the teacher, where the loss must be 0
            without a gradient; None for a loss without a teacher (the exception is then tested).
        options: the hyper-parameters to test, a dict each; the defaults come first.
        pulls_when_matched: the exception that a loss with a teacher pulls where the student equals it, too.
        constant_in_the_student: the exception that the value depends on the student by a factor that is a constant to
            the gradient, which the reference then has, too.
        order_matters: the exception that the value depends on the order of the batch.
        grows: the options under which the value is a power of the features that float32 cannot hold at
            1e15, because no normalisation takes their scale out.
        read_entry: an entry of the first row that every option reads.
    """

    make: Callable[[int], Inputs]
    reference: Callable[..., Tensor]
    matched: Callable[[Inputs], Inputs] | None
    options: tuple[dict[str, Any], ...] = ({},)
    pulls_when_matched: bool = False
    constant_in_the_student: bool = False
    order_matters: bool = False
    grows: tuple[dict[str, Any], ...] = ()
    read_entry: int = 0


def matched_embeddings(inputs: Inputs) -> Inputs:
    return {**inputs, "student_embedding": inputs["teacher_embedding"].clone()}


def matched_logits(inputs: Inputs) -> Inputs:
    return {**inputs, "student_logits": inputs["teacher_logits"].clone()}


def matched_maps(inputs: Inputs) -> Inputs:
    return {**inputs, "student_map": inputs["teacher_map"].clone()}


def matched_flows(inputs: Inputs) -> Inputs:
    after = inputs["teacher_map_after"].clone()
    return {**matched_maps(inputs), "student_map_after": after}


REGRESSION = Spec(
    make=make_embeddings_alike,
    reference=regression_reference,
    matched=matched_embeddings,
    options=(
        {},
        {"distance": "l2", "student_normalise": "centre", "teacher_normalise": "centre"},
        {"distance": "smooth-l1", "beta": 0.5, "student_normalise": "layer", "teacher_normalise": "layer"},
        {"student_normalise": "whiten", "teacher_normalise": "whiten"},
        {"distance": "l2", "student_normalise": "standardise", "teacher_normalise": "standardise"},
        {"distance": "l2", "student_normalise": "l2", "teacher_normalise": "l2"},
    ),
)

SPECS: dict[str, Spec] = {
    "cross_entropy": Spec(
        make=make_logits_and_labels,
        reference=cross_entropy_reference,
        matched=None,
        options=({}, {"label_smoothing": 0.1}),
    ),
    "kd": Spec(
        make=make_logits,
        reference=kd_reference,
        matched=lambda x: {**x, "student_logits": x["teacher_logits"].clone()},
        options=({}, {"temperature": 1.0}, {"standardise": True, "temperature": 2.0}),
    ),
    "mutual": Spec(
        make=make_peers,
        reference=mutual_reference,
        matched=lambda x: {**x, "student_logits": x["peer_logits"].clone()},
    ),
    "dkd": Spec(
        make=make_logits_both,
        reference=dkd_reference,
        matched=lambda x: {**x, "student_logits": x["teacher_logits"].clone()},
        options=({}, {"alpha": 2.0, "beta": 1.0, "temperature": 1.0}, {"standardise": True}),
    ),
    "ttm": Spec(
        make=make_logits,
        reference=ttm_reference,
        matched=matched_logits,
        options=({}, {"temperature": 2.0, "weighted_by_power_sum": True, "standardise": True}),
        pulls_when_matched=True,
    ),
    "nkd": Spec(
        make=make_logits_both,
        reference=nkd_reference,
        matched=matched_logits,
        options=({}, {"gamma": 3.5, "temperature": 3.0}, {"standardise": True}),
        pulls_when_matched=True,
    ),
    "wsld": Spec(
        make=make_logits_both,
        reference=wsld_reference,
        matched=matched_logits,
        options=({}, {"temperature": 2.0, "epsilon": 0.1, "standardise": True}),
        constant_in_the_student=True,
    ),
    "stkd": Spec(
        make=make_mixed,
        reference=stkd_reference,
        matched=lambda x: {**x, "student_logits": x["teacher_logits"].clone()},
        options=({}, {"true_classes": "left-out", "temperature": 1.0, "standardise": True}),
        read_entry=-1,
    ),
    "dist": Spec(
        make=make_logits,
        reference=dist_reference,
        matched=lambda x: {**x, "student_logits": x["teacher_logits"].clone()},
        options=({}, {"beta": 2.0, "gamma": 0.5, "temperature": 4.0, "standardise": True}),
    ),
    "affinity": Spec(
        make=make_sides,
        reference=affinity_reference,
        matched=lambda x: {**x, "student": x["teacher"].clone()},
        options=(
            {},
            {"diagonal": False, "temperature": 0.5},
            {"affinity": "rbf", "normalisation": "row-sum", "distance": "js", "per": "pair"},
            {"affinity": "euclid", "normalisation": "mean", "distance": "smooth-l1", "diagonal": False},
            {"affinity": "squared-euclid", "normalisation": "row-softmax", "distance": "l1"},
            {"affinity": "polynomial", "normalisation": "frobenius", "distance": "l2", "degree": 3},
            {"affinity": "student-t", "normalisation": "standardise", "distance": "l2"},
            {"affinity": "dot", "normalisation": "row-standardise", "distance": "smooth-l1"},
            {"affinity": "dot", "normalisation": "max", "distance": "l1", "per": "pair"},
            {"affinity": "cosine", "normalisation": "none", "distance": "l2"},
        ),
    ),
    "pkt": Spec(make_embeddings_alone, pkt_reference, matched_embeddings),
    "rkd_distance": Spec(make_embeddings_alone, rkd_distance_reference, matched_embeddings),
    "rkd_angle": Spec(make_embeddings_alone, rkd_angle_reference, matched_embeddings),
    "cc": Spec(
        make_embeddings_alone,
        cc_reference,
        matched_embeddings,
        options=({}, {"bandwidth": 1.0, "order": 3}, {"kernel": "bilinear"}),
        grows=({"kernel": "bilinear"},),
    ),
    "cc_neighbour": Spec(
        make_embeddings_alike, cc_neighbour_reference, matched_embeddings, order_matters=True
    ),
    "at": Spec(make_maps, at_reference, matched_maps, options=({}, {"power": 1.0})),
    "nst": Spec(make_maps, nst_reference, matched_maps),
    "simkd": Spec(
        make_pooled,
        simkd_reference,
        lambda x: {**x, "student_pooled_map": x["teacher_pooled_map"].clone()},
    ),
    "fsp": Spec(make_flows, fsp_reference, matched_flows, grows=({},)),
    "ickd": Spec(make_maps_alike, ickd_reference, matched_maps),
    "fitnet": Spec(make_hints, hint_reference, lambda x: {**x, "student": x["teacher"].clone()}),
    "vid": Spec(
        make_variational,
        vid_reference,
        # Its least value is ½ ln σ², which is 0 for the variance 1.
        lambda x: {
            **x,
            "student_map": torch.nn.functional.adaptive_avg_pool2d(x["teacher_map"], 2),
            "variance": torch.ones_like(x["variance"]),
        },
    ),
    "ft": Spec(make_maps_alike, factor_transfer_reference, matched_maps, options=({}, {"of": "factor"})),
    "reviewkd": Spec(make_same_maps, context_reference, matched_maps),
    "ofd": Spec(make_behind_margin, partial_reference, matched_maps),
    "ab": Spec(
        make_same_maps,
        boundary_reference,
        matched_maps,
        options=({}, {"margin": 0.3}),
        pulls_when_matched=True,
    ),
    "semckd": Spec(make_attended, calibrated_reference, matched_maps, grows=({},)),
    "kdsvd": Spec(
        make_wide_flows,
        singular_reference,
        matched_flows,
        options=({}, {"vectors": 2}, {"of": "columns", "vectors": 3, "spare": 0}),
    ),
    "crd": Spec(make_scores, nce_reference, None, options=({"num_samples": 20}, {"num_samples": 4})),
    "crd_queue": Spec(make_allowed, info_nce_reference, None),
    "sp": Spec(
        make=make_maps,
        reference=sp_reference,
        matched=lambda x: {**x, "student_map": x["teacher_map"].clone()},
    ),
    "tuples": Spec(
        make=make_embeddings,
        reference=tuple_reference,
        matched=lambda x: {**x, "student_embedding": x["teacher_embedding"].clone()},
        options=(
            {},
            {"margin": 0.5, "temperature": 0.1},
            {"mining": "facenet"},
            {"mining": "all", "temperature": 1.0},
        ),
    ),
    "induced_classifier": Spec(
        make=make_induced,
        reference=induced_reference,
        matched=induced_matched,
        options=(
            {},
            {"classes": "all"},
            {"teacher_temperature": 2.0, "student_temperature": 0.5, "normalise": True},
        ),
    ),
    "prototype": Spec(
        make_episode,
        prototype_reference,
        matched=None,
        options=({}, {"metric": "cosine", "temperature": 0.1}, {"temperature": 3.0}),
    ),
    "episode_induced": Spec(
        make_episode_of_both,
        episode_induced_reference,
        matched=one_shot_alike,
        options=(
            {},
            {"metric": "cosine", "teacher_temperature": 2.0, "student_temperature": 0.5},
            {"teacher_temperature": 4.0, "student_temperature": 2.0},
        ),
    ),
    "cross_entropy_new": Spec(
        make_new, cross_entropy_new_reference, None, options=({}, {"label_smoothing": 0.1})
    ),
    "binary_cross_entropy": Spec(make_new, binary_cross_entropy_reference, None),
    "binary_kd": Spec(make_logits, binary_kd_reference, matched_logits),
    "cosine": Spec(make_embeddings_alike, cosine_reference, matched_embeddings),
    "coss": Spec(
        make_embeddings_alike,
        coss_reference,
        matched_embeddings,
        options=({}, {"space": 0.0}, {"space": 2.5}),
    ),
    "regression": REGRESSION,
    "inverted_projection": replace(REGRESSION, options=({"distance": "l2"},)),  # the same function
    "rsd": Spec(make_embeddings_alike, rsd_reference, uncorrelated, options=({}, {"kappa": 0.5})),
    "coss_projected": Spec(make_embeddings_alike, coss_reference, matched_embeddings),
    "norm_direction": Spec(make_centres, norm_direction_reference, to_the_centres),
    "queue_similarity": Spec(
        make_queue,
        queue_similarity_reference,
        matched_embeddings,
        options=(
            {},
            {"candidates": "own", "student_temperature": 0.2, "teacher_temperature": 0.01},
            {"candidates": "queue", "student_temperature": 0.04, "teacher_temperature": 0.04},
        ),
    ),
    "margin_ranking": Spec(
        make_cosines,
        margin_ranking_reference,
        None,
        options=({}, {"margin": 0.1, "hardest": 1}, {"hardest": 7}),
    ),
    "pod": Spec(make_maps_alike, pod_reference, matched_maps),
    "nca": Spec(
        make_scaled_cosines,
        nca_reference,
        None,
        options=({}, {"margin": 0.0}, {"margin_form": "shift"}),
    ),
    "ird": Spec(
        make_embeddings_alone,
        ird_reference,
        matched_embeddings,
        options=(
            {"student_temperature": 0.2, "teacher_temperature": 0.01},
            {"student_temperature": 0.5, "teacher_temperature": 0.5},
        ),
    ),
}
