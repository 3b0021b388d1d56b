"""Published losses on similarities: of pairs, mostly combinations of the affinity family, and of the two sides."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.numerics import no_autocast, unit_rows, upcast, zero_unselected
from gkd.losses._common import check_rows, kl_entries, log_softmax_over, mean_over_rows
from gkd.losses.affinity import affinity_loss
from gkd.losses.registry import loss
from gkd.losses.signature import Mask, NotNegative, Positive, Range, checked

__all__ = [
    "cc_loss",
    "cc_neighbour_loss",
    "cosine_loss",
    "coss_loss",
    "ird_loss",
    "pkt_loss",
    "rkd_distance_loss",
    "sp_loss",
]


@loss("sp", paper="Tung, Mori, ICCV 2019")
def sp_loss(student_map: Tensor, teacher_map: Tensor, *, mask: Mask = None) -> Tensor:
    """Similarity-preserving distillation: pairs alike for the teacher are alike for the student.

    ``(1 / B²) · ‖ G_T − G_S ‖_F²`` with ``G = rows of Q Qᵀ, each divided by its L2 norm`` and Q the
    activation map, flattened to ``[B, C·H·W]`` and not normalised itself.

    Convention: the affinity ``dot``, ``row-l2``, ``l2``, ``per='pair'``: divided by B², B = the number of
    selected rows. A row's difference is at most 2, so the value is O(1/B): the paper's weight 3000 belongs
    to B = 64. The teacher is a constant. A zero row of Q is a zero row of G; one row, or none, gives a zero
    that keeps the graph. The networks' channels and spatial sizes may differ.

    Args:
        student_map: ``[B, ...]``, the last spatial map before pooling in the paper.
        teacher_map: ``[B, ...]``.
        mask: Bool ``[B]``, the rows that count; the others enter neither rows nor columns of G.

    Returns:
        A 0-dim tensor, float32 for half-precision maps.

    Raises:
        UserError: sides of different batch sizes.

    Paper:
        Tung, Mori: Similarity-Preserving Knowledge Distillation, ICCV 2019, equations 2 to 4.
    """
    return affinity_loss(
        student_map, teacher_map, affinity="dot", normalisation="row-l2", distance="l2", per="pair", mask=mask
    )


@loss("pkt", paper="Passalis, Tefas, ECCV 2018")
def pkt_loss(student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Mask = None) -> Tensor:
    """Probabilistic knowledge transfer: the neighbourhood of every sample as a distribution.

    ``(1 / B²) Σ_ij p_T,ij log(p_T,ij / p_S,ij)`` with ``p_ij = k_ij / Σ_j k_ij`` and
    ``k = (1 + cos(h_i, h_j)) / 2``.

    Convention: the affinity ``shifted-cosine``, ``row-sum``, ``kl``, ``per='pair'``, the diagonal included:
    KL(teacher‖student) over each row, divided by B², so the value is O(1/B) and the benchmark's weight 30000
    belongs to B = 64. The authors add 1e-7 to both probabilities inside the logarithm; here those below 1e-12
    are floored instead, so that equal embeddings give exactly 0 (values differ by about 1e-7 · B). A
    zero embedding has the cosine 0 with all. One row gives 0, and so does none, with the graph kept.

    Args:
        student_embedding: ``[B, D_S]``.
        teacher_embedding: ``[B, D_T]``.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: sides of different batch sizes.

    Paper:
        Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018,
        equations 3 to 7.
    """
    return affinity_loss(
        student_embedding,
        teacher_embedding,
        affinity="shifted-cosine",
        normalisation="row-sum",
        distance="kl",
        per="pair",
        mask=mask,
    )


@loss("rkd_distance", paper="Park, Kim, Lu, Cho, CVPR 2019")
def rkd_distance_loss(student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Mask = None) -> Tensor:
    """Relational distillation of distances: pairs are as far apart, relative to the mean, as in the teacher.

    ``(1 / B²) Σ_ij huber( d_S,ij / μ_S − d_T,ij / μ_T )`` with ``d_ij = ‖h_i − h_j‖₂`` and μ the mean of
    the positive distances.

    Convention: the affinity ``euclid``, ``mean``, ``smooth-l1`` (β = 1), ``per='pair'``: mean over all B²
    ordered pairs, the zero diagonal among them. Each side has its own μ; the student's carries gradient.
    Distances are taken from differences. The value hardly depends on B and not on the scale of either side.
    Identical embeddings, one row or none give 0, with the graph kept and a finite gradient.

    Args:
        student_embedding: ``[B, D_S]``.
        teacher_embedding: ``[B, D_T]``.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: sides of different batch sizes.

    Paper:
        Park, Kim, Lu, Cho: Relational Knowledge Distillation, CVPR 2019, equations 4 to 6; reduction of
        RepDistiller.
    """
    return affinity_loss(
        student_embedding,
        teacher_embedding,
        affinity="euclid",
        normalisation="mean",
        distance="smooth-l1",
        per="pair",
        mask=mask,
    )


@loss("cc", paper="Peng et al., ICCV 2019")
def cc_loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    *,
    kernel: Literal["rbf", "bilinear"] = "rbf",
    bandwidth: Annotated[float, Range(above=0, at_most=40)] = 0.4,
    order: Annotated[int, Range(at_least=1, at_most=100)] = 2,
    mask: Mask = None,
) -> Tensor:
    """Correlation congruence: the kernel matrix of a batch is the teacher's.

    ``(1 / B²) · ‖ K_T − K_S ‖_F²``; ``rbf``: ``K_ij = e^(−2b) Σ_{p ≤ P} (2b cos(h_i, h_j))^p / p!``, the
    Taylor series of the Gaussian kernel of unit vectors; ``bilinear``: ``K_ij = h_i · h_j``.

    Convention: the affinity ``taylor-rbf`` (or ``dot``), ``none``, ``l2``, ``per='pair'``: mean over all B²
    ordered pairs, so the value hardly depends on B; ``bilinear`` grows with the fourth power of the
    features. The teacher is a constant. No row gives a zero that keeps
    the graph. The networks' widths may differ. This is the paper's form; the one of the CIFAR-100
    benchmark is :func:`cc_neighbour_loss`.

    Args:
        student_embedding: ``[B, D_S]``.
        teacher_embedding: ``[B, D_T]``.
        kernel: the paper's default is the Gaussian.
        bandwidth: b of the Gaussian, at most 40.
        order: P, the highest power of its series, 1 to 100.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: sides of different batch sizes.

    Paper:
        Peng et al.: Correlation Congruence for Knowledge Distillation, ICCV 2019, equations 4 to 9.
    """
    return affinity_loss(
        student_embedding,
        teacher_embedding,
        affinity="dot" if kernel == "bilinear" else "taylor-rbf",
        normalisation="none",
        distance="l2",
        per="pair",
        bandwidth=bandwidth,
        degree=order,
        mask=mask,
    )


@checked
def cc_neighbour_loss(student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Mask = None) -> Tensor:
    """Correlation of the errors of neighbours in a batch: what the CIFAR-100 benchmark calls CC.

    ``mean_i Σ_d δ_i,d · δ_i+1,d`` with ``δ = |h_S − h_T|``, over consecutive selected rows.

    Convention: no kernel is involved, and the value depends on the order of the batch. Fewer than two rows
    give a zero that keeps the graph. It does not scale with B.

    Args:
        student_embedding: ``[B, D]``, of the teacher's width: both embedded to 128 in the benchmark.
        teacher_embedding: ``[B, D]``.
        mask: Bool ``[B]``, the rows that count; a neighbour is the next of them.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: sides of different batch sizes or widths.

    Paper:
        HobbitLong/RepDistiller, distiller_zoo/CC.py, after Peng et al., ICCV 2019.
    """
    check_rows(student_embedding, teacher_embedding)
    if student_embedding.shape[1] != teacher_embedding.shape[1]:
        raise UserError(
            f"The student's embedding has {student_embedding.shape[1]} entries, the teacher's "
            f"{teacher_embedding.shape[1]}; embed both to one width, or use 'cc', which compares kernels.",
            code="other-widths",
        )
    delta = (upcast(student_embedding) - upcast(teacher_embedding.detach())).abs()
    delta = zero_unselected(delta, mask)
    number = torch.arange(len(delta), device=delta.device)
    if mask is None:
        before = number - 1
    else:  # the last selected row before each
        reached = torch.where(mask, number, -1).cummax(0).values if len(delta) else number
        before = torch.cat([reached.new_full((1,), -1), reached[:-1]])[: len(delta)]
    pairs = before >= 0 if mask is None else mask & (before >= 0)
    products = (delta * delta[before.clamp_min(0)]).sum(1)
    return torch.where(pairs, products, 0).sum() / pairs.sum().clamp_min(1)


@loss("ird", paper="Cha, Lee, Shin, ICCV 2021")
def ird_loss(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    *,
    student_temperature: Positive = 0.2,
    teacher_temperature: Positive = 0.01,
    mask: Mask = None,
) -> Tensor:
    """Instance-wise relations: each sample is as close to the others of the batch as it is for the teacher.

    ``mean_i KL( p_T,i ‖ p_S,i )`` with ``p_ij = softmax over j ≠ i of cos(h_i, h_j) / κ``.

    Convention: each side has its own temperature κ and no κ² is applied; KL(teacher‖student), natural logarithm,
    summed over the others and averaged over the selected rows; the value grows with ln B. Co2L writes a
    cross-entropy, which is larger by the teacher's entropy and has the same gradient. Its embedding is that of a
    projection head. The teacher is a constant. A zero embedding has the cosine 0 with all. Fewer than three rows give
    0, and so does none, with the graph kept.

    Args:
        student_embedding: ``[B, D_S]``.
        teacher_embedding: ``[B, D_T]``.
        student_temperature: κ of the student, 0.2 in the paper.
        teacher_temperature: κ of the teacher, 0.01 in the paper: its nearest neighbours alone.
        mask: Bool ``[B]``, the rows that count; the others are left out as neighbours too.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: sides of different batch sizes.

    Paper:
        Cha, Lee, Shin: Co2L: Contrastive Continual Learning, ICCV 2021, instance-wise relation distillation;
        temperatures and reduction of chaht01/Co2L.
    """
    check_rows(student_embedding, teacher_embedding)
    others = ~torch.eye(len(student_embedding), dtype=torch.bool, device=student_embedding.device)
    if mask is not None:
        others = others & mask

    def log_closeness(embedding: Tensor, temperature: float) -> Tensor:
        unit = unit_rows(upcast(zero_unselected(embedding, mask)))
        with no_autocast(unit):
            return log_softmax_over(unit @ unit.T / temperature, others)

    student = log_closeness(student_embedding, student_temperature)
    teacher = log_closeness(teacher_embedding.detach(), teacher_temperature)
    entries = kl_entries(student, teacher.to(student.dtype))
    return mean_over_rows(torch.where(others, entries, 0).sum(1), mask)


@loss("cosine", paper="Hou, Pan, Loy, Wang, Lin, CVPR 2019")
def cosine_loss(student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Mask = None) -> Tensor:
    """Direction: every sample's embedding points where the teacher's does.

    ``mean_i ( 1 − cos(h_S,i, h_T,i) )``.

    Convention: mean over the selected rows; the value is in [0, 2] and does not scale with B or the length of either
    side. The teacher is a constant. A zero embedding has the cosine 0, with a finite gradient. No row gives a
    zero that keeps the graph. UCIR's less-forget constraint and PODNet's POD-flat are this loss; their weights grow
    with the classes.

    Args:
        student_embedding: ``[B, D]``, of the teacher's width.
        teacher_embedding: ``[B, D]``.
        mask: Bool ``[B]``, the rows that count.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: sides of different batch sizes or widths.

    Paper:
        Hou, Pan, Loy, Wang, Lin: Learning a Unified Classifier Incrementally via Rebalancing, CVPR 2019, section 3.3
        (less-forget constraint).
    """
    check_rows(student_embedding, teacher_embedding)
    if student_embedding.shape[1] != teacher_embedding.shape[1]:
        raise UserError(
            f"The student's embedding has {student_embedding.shape[1]} entries, the teacher's "
            f"{teacher_embedding.shape[1]}: directions are compared in one space; use networks of one width, or "
            "'pkt', which compares similarities.",
            code="other-widths",
        )
    student = unit_rows(upcast(zero_unselected(student_embedding, mask)))
    teacher = unit_rows(upcast(zero_unselected(teacher_embedding.detach(), mask)))
    return mean_over_rows(1 - (student * teacher).sum(1), mask)


@loss("coss", paper="Singh, Wang, ECCV 2024")
def coss_loss(
    student_embedding: Tensor, teacher_embedding: Tensor, *, space: NotNegative = 1.0, mask: Mask = None
) -> Tensor:
    """Space similarity: every sample and every dimension of the embedding points where the teacher's does.

    ``mean_i ( 1 − cos(h_S,i, h_T,i) ) + λ · mean_j ( 1 − cos(h_S,·j, h_T,·j) )`` with ``h_·j`` the j-th column over the
    batch.

    Convention: the first mean runs over the selected rows, the second over the D columns, each of which holds the
    selected rows of the embedding as it is, not of unit length; so the value is in [0, 2 + 2 λ] and scales neither with
    B nor with the length of either side, while a column means less the fewer rows it has. The paper writes −cos in
    place of 1 − cos; the two differ by a constant. The teacher is a constant. A zero row or column has the cosine 0,
    with a finite gradient. No row gives a zero that keeps the graph. The dimensions are compared one by one, so
    both sides have D.

    Args:
        student_embedding: ``[B, D]``, of the teacher's width.
        teacher_embedding: ``[B, D]``.
        space: λ, the weight of the columns beside the rows.
        mask: Bool ``[B]``, the rows that count; the others enter neither rows nor columns.

    Returns:
        A 0-dim tensor, float32 for half-precision embeddings.

    Raises:
        UserError: sides of different batch sizes or widths.

    Paper:
        Singh, Wang: Simple Unsupervised Knowledge Distillation With Space Similarity, ECCV 2024, arXiv 2409.13939.
    """
    rows = cosine_loss(student_embedding, teacher_embedding, mask=mask)
    if student_embedding.shape[0] == 0:
        return rows
    student = unit_rows(upcast(zero_unselected(student_embedding, mask)).T)
    teacher = unit_rows(upcast(zero_unselected(teacher_embedding.detach(), mask)).T)
    columns = (1 - (student * teacher).sum(1)).mean()
    return rows + space * (columns if mask is None else columns * mask.any())
