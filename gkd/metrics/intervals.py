"""Confidence intervals: over seeds, over episodes, and paired over test images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); the latter is None for one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def t_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float] | None:
    """Student-t confidence interval of the mean over seeds; None for fewer than 5 values."""
    if len(values) < 5:
        return None
    from scipy import stats  # half a second of import that only this needs

    mean, std = mean_std(values)
    assert std is not None
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1)) * std / len(values) ** 0.5
    return mean - half, mean + half


def paired_bootstrap(
    method: Sequence[np.ndarray],
    baseline: Sequence[np.ndarray],
    *,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Difference in accuracy, paired over test images within each seed, with its interval.

    Each draw takes the test images with replacement, the same ones for both sides and all seeds,
    so the interval is over the choice of images; the spread over seeds is the table's ± column.

    Args:
        method, baseline: one Bool ``[N]`` correctness array a seed, in the same order of seeds and images.

    Returns:
        (difference, low, high) in percentage points.
    """
    # The mean over seeds of each image's difference is all that a draw of images needs.
    gain = np.mean([a.astype(float) - b.astype(float) for a, b in zip(method, baseline, strict=True)], axis=0)
    generator = np.random.default_rng(seed)
    samples = np.array([gain[generator.integers(0, len(gain), len(gain))].mean() for _ in range(draws)])
    low, high = np.quantile(samples, [0.5 - level / 2, 0.5 + level / 2])
    return 100 * float(gain.mean()), 100 * float(low), 100 * float(high)


def mean_interval(values: Tensor, *, level: float = 0.95) -> tuple[float, float]:
    """The mean over episodes and the half width of its Student-t interval: ``t · s / √E``, s with E − 1.

    Args:
        values: ``[E]``: accuracies, or differences of two models on the same episodes.
        level: of the interval.
    """
    from scipy import stats  # half a second of import that only this needs

    count = len(values)
    if count < 2:
        return float(values.mean()), math.inf
    quantile = float(stats.t.ppf(0.5 + level / 2, count - 1))
    return float(values.mean()), quantile * float(values.std()) / math.sqrt(count)
