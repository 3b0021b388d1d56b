"""Losses within an episode: classes as prototypes of their support rows, which classify the query rows."""

from typing import Literal

import torch
from torch import Tensor

from gkd.core.class_means import class_centres, class_means, induced_logits
from gkd.core.numerics import no_autocast, unit_rows, upcast, zero_unselected
from gkd.losses._common import check_range, check_rows, kl_rows, log_softmax_over, mean_over_rows
from gkd.losses.registry import loss
from gkd.losses.signature import Mask, Positive

__all__ = ["episode_induced_loss", "prototype_loss"]


@loss("prototype", paper="Snell, Swersky, Zemel, NeurIPS 2017")
def prototype_loss(
    student_embedding: Tensor,
    way: Tensor,
    support: Tensor,
    *,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    temperature: Positive = 1.0,
    mask: Mask = None,
) -> Tensor:
    """Prototypes: each query row is nearest to the mean of its own class's support rows.

    ``mean_i −log softmax_k( s(z_i, p_k) / τ )_{w_i}`` over the query rows i, where p_k is the prototype of the way k:

    - ``euclidean``: ``s = −‖z − p‖²`` (squared, not the distance), ``p_k`` the mean of the raw support rows;
    - ``cosine``: ``s = cos(z, p)``, ``p_k`` the normalised mean of the normalised support rows.

    Convention: the scores are divided by τ and no τ² is applied; the mean runs over the query rows, so the value does
    not scale with B; ``euclidean`` grows with the square of the embedding's scale, ``cosine`` does not depend on it.
    The softmax runs over the ways that have a support row. A query row whose way has none does not count; where none
    counts the loss is a zero that keeps the graph. Gradients reach query and support rows.

    Args:
        student_embedding: ``[B, D]``, the rows of one episode.
        way: int64 ``[B]``, which of the episode's classes a row is of: numbers in ``0 .. B − 1``, in any order.
        support: Bool ``[B]``; the other rows are queries.
        metric: ``"euclidean"`` (the paper) or ``"cosine"``, whose scores lie in −1 .. 1 and ask for a τ such as 0.1.
        temperature: τ, larger than 0; 1 in the paper.
        mask: Bool ``[B]``, the rows that the episode consists of; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: an unknown metric, a temperature that is not above 0, inputs of different batch sizes, or a way
            outside its range (checked on the CPU alone).

    Paper:
        Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning, NeurIPS 2017, equations 1 and 2. Normalise,
        average, normalise: Wang et al.: SimpleShot, 2019.
    """
    way, owner = _owners(student_embedding, way, support, mask)
    scores, candidates = _prototype_scores(student_embedding, owner, metric, mask)
    log = log_softmax_over(scores / temperature, candidates)
    target = log.gather(1, way.unsqueeze(1)).squeeze(1)
    return mean_over_rows(-target, _asked(way, owner, candidates, mask))


@loss("episode_induced", paper="ours, after Ye, Lu, Zhan, CVPR 2020 and TPAMI 2022")
def episode_induced_loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    way: Tensor,
    support: Tensor,
    *,
    teacher_temperature: Positive = 1.0,
    student_temperature: Positive = 1.0,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    mask: Mask = None,
) -> Tensor:
    """The student's prototypes classify the query rows as the teacher's prototypes do.

    ``mean_i KL( softmax_k(f_T,i · c_k / τ_T) ‖ softmax_k(s(z_i, p_k) / τ_S) )`` over the query rows i, where
    ``c_k = L2norm( mean of the way k's raw support rows f_T )`` as in `class_centres`, and s and p_k are those of
    `prototype_loss`, of the student's own support rows.

    Convention: each side has its own temperature and no τ² is applied; KL(teacher‖student), summed over the ways that
    have a support row, mean over the query rows, so the value does not scale with B. The teacher is a constant. The
    rows that count are those of `prototype_loss`; where none does, or one way has support, the loss is a zero that
    keeps the graph.

    The papers distil across tasks within episodes too, but their authors published no few-shot code. From the papers:
    the teacher's logits, embedding times normalised centre, and the direction of KL. Ours: that the centres are those
    of the episode's support, that the student answers by its own prototypes and in which metric, that the query rows
    alone count, and both temperatures, which are those of the authors' code for the classifier over all classes.

    Args:
        student_embedding: ``[B, D_S]``, the rows of one episode.
        teacher_embedding: ``[B, D_T]``, not normalised.
        way: int64 ``[B]``, which of the episode's classes a row is of: numbers in ``0 .. B − 1``, in any order.
        support: Bool ``[B]``; the other rows are queries.
        teacher_temperature: τ_T, larger than 0.
        student_temperature: τ_S, larger than 0.
        metric: of the student's scores, as in `prototype_loss`.
        mask: Bool ``[B]``, the rows that the episode consists of; None means all.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: an unknown metric, a temperature that is not above 0, inputs of different batch sizes, or a way
            outside its range (checked on the CPU alone).

    Paper:
        Ye, Lu, Zhan: Distilling Cross-Task Knowledge via Relationship Matching, CVPR 2020, section 4.2, and
        Generalized Knowledge Distillation via Relationship Matching, TPAMI 2022, carried over to episodes.
    """
    check_rows(student_embedding, teacher_embedding)
    way, owner = _owners(student_embedding, way, support, mask)
    scores, candidates = _prototype_scores(student_embedding, owner, metric, mask)
    embedding = upcast(zero_unselected(teacher_embedding.detach(), mask))
    centres, _ = class_centres(embedding, owner, len(owner) + 1)
    teacher = induced_logits(embedding, centres[:-1])
    rows = kl_rows(scores / student_temperature, teacher / teacher_temperature, candidates)
    return mean_over_rows(rows, _asked(way, owner, candidates, mask))


def _owners(embedding: Tensor, way: Tensor, support: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The ways, and the way whose prototype each row is a part of: B for a row that is part of none."""
    check_rows(embedding, way, "ways have")
    check_rows(embedding, support, "support flags have")
    way, count = zero_unselected(way, mask), len(way)
    check_range("ways", way, count, f"an episode of {count} rows has at most {count} of them")
    return way, torch.where(zero_unselected(support, mask), way, count)


def _prototype_scores(
    embedding: Tensor, owner: Tensor, metric: str, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scores ``[B, B]`` of each row for each way, up to a constant of the row, and Bool ``[B]``: ways with support."""
    rows, count = upcast(zero_unselected(embedding, mask)), len(owner)
    if metric == "cosine":
        rows = unit_rows(rows)
        prototypes, members = class_centres(rows, owner, count + 1)
        offset = prototypes.new_zeros(count)
    else:
        # Distances do not depend on the origin, and around the rows' mean their products lose fewer digits.
        rows = rows - rows.detach().mean(0)
        prototypes, members = class_means(rows, owner, count + 1)
        offset = prototypes[:-1].square().sum(1)
        rows = 2 * rows
    with no_autocast(rows):
        scores = rows @ prototypes[:-1].T
    return scores - offset, members[:-1] > 0


def _asked(way: Tensor, owner: Tensor, candidates: Tensor, mask: Tensor | None) -> Tensor:
    """Bool ``[B]``: the query rows whose way has a prototype."""
    asked = (owner == len(owner)) & candidates[way]
    return asked if mask is None else asked & mask
