"""Few-shot classifiers on embeddings, many episodes at once, and the accuracy of each episode.

``support [E, N, K, D]`` holds K embeddings of each of the N classes of E episodes, ``query [E, N, Q, D]`` the judged
ones. A classifier gives scores ``[E, N, Q, N]``; the largest is its answer. Embeddings are computed once for an image
set; an episode is indices into them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.core.errors import UserError, unknown

_CHUNK = 32  # episodes at a time on a CPU: few enough that their embeddings stay in its cache


def nearest_mean(support: Tensor, query: Tensor) -> Tensor:
    """Minus the squared Euclidean distance to each class's mean, up to a constant of the query.

    Source:
        Snell, Swersky, Zemel: Prototypical Networks, NeurIPS 2017, equation 2.
    """
    means = support.mean(2)
    return 2 * torch.einsum("enqd,ecd->enqc", query, means) - means.square().sum(2)[:, None, None]


def cosine_mean(support: Tensor, query: Tensor) -> Tensor:
    """The cosine to the mean of each class's unit embeddings: normalise, average, normalise.

    Source:
        Wang et al.: SimpleShot, 2019 (L2N).
    """
    means = F.normalize(F.normalize(support, dim=3).mean(2), dim=2)
    return _linear(query, means) / _length(query)


def ridge(support: Tensor, query: Tensor, *, penalty: float = 1.0) -> Tensor:
    """Ridge regression to ±1 targets with an intercept, one against all, in the Gram space of the support.

    ``min_W,b Σ_i ‖ W x_i + b − y_i ‖² + penalty · ‖W‖²``; the scores are ``W q + b``, those of scikit-learn's
    ``RidgeClassifier(alpha=penalty)``.
    """
    episodes, ways, shots, width = support.shape
    rows = support.reshape(episodes, ways * shots, width)
    targets = _one_hot(ways, shots, rows).mul(2).sub(1)
    middle, mean = rows.mean(1, keepdim=True), targets.mean(0)
    centred = rows - middle
    gram = centred @ centred.mT
    gram.diagonal(dim1=1, dim2=2).add_(penalty)
    dual = torch.linalg.solve(gram, (targets - mean).expand(episodes, -1, -1))
    weights = dual.mT.contiguous() @ centred
    intercept = mean - (weights @ middle.mT).squeeze(2)
    return _linear(query, weights) + intercept[:, None, None]


def logistic(
    support: Tensor, query: Tensor, *, strength: float = 1.0, tolerance: float = 1e-5, most: int = 1000
) -> Tensor:
    """Multinomial logistic regression with an intercept, in the Gram space of the support.

    ``min_W,b strength · Σ_i CE(W x_i + b, y_i) + ½ ‖W‖²`` of unit embeddings, which RFS uses; scikit-learn's
    ``LogisticRegression(C=strength)``. The minimum is unique but for a common shift of b. Solved by the quadratic
    bound of the softmax (each step solves one linear system, whose matrix is inverted once), with Nesterov's
    extrapolation, until no gradient in the space of the support's scores exceeds ``tolerance``.

    Source:
        Böhning: Multinomial Logistic Regression Algorithm, 1992 (the bound); Tian et al.: RFS, ECCV 2020.
    """
    episodes, ways, shots, width = support.shape
    rows = F.normalize(support.reshape(episodes, ways * shots, width), dim=2)
    gram, targets = rows @ rows.mT, _one_hot(ways, shots, rows).mT
    count = ways * shots
    system = rows.new_zeros(episodes, count + 1, count + 1)
    system[:, :count, :count] = strength / 2 * gram + torch.eye(count, dtype=rows.dtype, device=rows.device)
    system[:, :count, count] = strength / 2
    system[:, count, :count] = 1
    # Rounding of the inverse only slows convergence: the steps are 0 where the residual is.
    inverse = torch.linalg.inv(system).mT.contiguous()
    # Of each class: a weight for every support sample, W = Σ_i a_i x_i, and the intercept.
    solution = rows.new_zeros(episodes, ways, count + 1)
    ahead, momentum = solution, 1.0
    for step in range(most):
        weights = ahead[..., :count]
        scores = weights @ gram + ahead[..., count:]
        residual = strength * (scores.softmax(1) - targets) + weights
        new = ahead - torch.cat([residual, weights.sum(2, keepdim=True)], 2) @ inverse
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / following * (new - solution)
        moved = (new - solution).abs().amax() if step % 10 == 9 else None
        solution, momentum = new, following
        if moved is not None and moved < tolerance:
            break
    scores = _linear(query, solution[..., :count] @ rows) / _length(query)
    return scores + solution[:, None, None, :, count]


def _linear(query: Tensor, weights: Tensor) -> Tensor:
    """``[E, N, Q, C]``: the queries times each episode's ``weights [E, C, D]``, as one product an episode.

    Weights with a class in every row, and ones with a class in every column, differ four times in speed on a CPU.
    """
    return (query.flatten(1, 2) @ weights.mT).unflatten(1, query.shape[1:3])


def _length(query: Tensor) -> Tensor:
    """``[E, N, Q, 1]``: norms as of ``F.normalize``; dividing scores by them saves a copy of the queries."""
    return query.norm(dim=3, keepdim=True).clamp_min(1e-12)


def _one_hot(ways: int, shots: int, like: Tensor) -> Tensor:
    """``[N · K, N]``: the class of each support sample, in the order of classes."""
    return torch.eye(ways, dtype=like.dtype, device=like.device).repeat_interleave(shots, 0)


def scikit_logistic(support: Tensor, query: Tensor) -> Tensor:
    """scikit-learn's ``LogisticRegression`` on unit embeddings, fitted for each episode: RFS's classifier."""
    from sklearn.linear_model import LogisticRegression

    return _one_by_one(lambda: LogisticRegression(C=1.0, max_iter=1000), support, query)


def scikit_svm(support: Tensor, query: Tensor) -> Tensor:
    """scikit-learn's linear support vector machine (one against all, C = 1), fitted alike."""
    from sklearn.svm import LinearSVC

    return _one_by_one(lambda: LinearSVC(C=1.0, random_state=0), support, query)


def _one_by_one(build: Callable[[], Any], support: Tensor, query: Tensor) -> Tensor:
    """Scores of a scikit-learn classifier that is fitted for every episode."""
    support, query = F.normalize(support, dim=3).cpu(), F.normalize(query, dim=3)
    episodes, ways, shots, width = support.shape
    labels = torch.arange(ways).repeat_interleave(shots).numpy()
    scores = query.new_empty(episodes, ways, query.shape[2], ways)
    for number in range(episodes):
        fitted = build().fit(support[number].reshape(-1, width).numpy(), labels)
        decision = fitted.decision_function(query[number].reshape(-1, width).cpu().numpy())
        if ways == 2:  # scikit-learn gives one score there
            decision = np.stack([-decision, decision], 1)
        scores[number] = torch.from_numpy(decision).to(scores).view(ways, -1, ways)
    return scores


def centred(embedding: Tensor, base_mean: Tensor) -> Tensor:
    """Embeddings minus the mean of the training images', on the unit sphere; for the nearest mean of them (CL2N).

    Source:
        Wang et al.: SimpleShot, 2019.
    """
    return F.normalize(embedding - base_mean, dim=1)


def _rows(embedding: Tensor, index: Tensor) -> Tensor:
    """``embedding[index]`` by ``index_select``, which copies whole rows: four times as fast."""
    return embedding.index_select(0, index.flatten()).unflatten(0, index.shape)


# Name -> scores ``[E, N, Q, N]`` from support and query.
CLASSIFIERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nearest-mean": nearest_mean,
    "cosine": cosine_mean,
    "ridge": ridge,
    "logistic": logistic,
    "scikit-logistic": scikit_logistic,
    "scikit-svm": scikit_svm,
}


CENTRED = "centred"  # the nearest mean of ``centred`` embeddings, which needs the mean training embedding too


def known_classifiers(names: tuple[str, ...], *more: str) -> tuple[str, ...]:
    """Return the names; a ValueError where one is neither a key of ``CLASSIFIERS`` nor one of ``more``."""
    for name in names:
        if name not in (*CLASSIFIERS, *more):
            raise ValueError(unknown("classifier", name, (*CLASSIFIERS, *more)))
    return names


def episode_correct(
    embedding: Tensor,
    support: Tensor,
    query: Tensor,
    classifier: str = "nearest-mean",
    *,
    chunk: int | None = None,
) -> Tensor:
    """Whether each query is answered rightly, Bool ``[E, N, Q]``.

    Args:
        embedding: ``[n, D]`` of the image set.
        support, query: int64 ``[E, N, K]`` and ``[E, N, Q]``, numbers of rows.
        classifier: a key of ``CLASSIFIERS``.
        chunk: episodes at a time; None is 32 on a CPU and 4096 elsewhere.
    """
    if classifier not in CLASSIFIERS:
        raise UserError(unknown("classifier", classifier, CLASSIFIERS), code="unknown-classifier")
    scores_of = CLASSIFIERS[classifier]
    size = chunk or (_CHUNK if embedding.device.type == "cpu" else 4096)
    correct = []
    for supports, queries in zip(support.split(size), query.split(size), strict=True):
        answers = scores_of(_rows(embedding, supports), _rows(embedding, queries)).argmax(3)
        correct.append(answers == torch.arange(supports.shape[1], device=answers.device).view(1, -1, 1))
    return torch.cat(correct)


def episode_accuracies(
    embedding: Tensor,
    support: Tensor,
    query: Tensor,
    classifier: str = "nearest-mean",
    *,
    chunk: int | None = None,
) -> Tensor:
    """Accuracy in percent of each episode, float64 ``[E]``; arguments as of ``episode_correct``."""
    right = episode_correct(embedding, support, query, classifier, chunk=chunk)
    return 100 * right.double().mean((1, 2))
