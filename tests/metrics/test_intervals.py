"""How sure a number is: over seeds, and paired over images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gkd.metrics import mean_std, paired_bootstrap, t_interval

VALUES = [71.2, 70.8, 72.4, 71.9, 70.1, 71.0]


def pair(num: int, *, seed: int, seeds: int = 3) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Correctness of two methods of true accuracy 0.8 and 0.7, right on much the same images."""
    generator = np.random.default_rng(seed)
    ease = generator.random(num)
    ours = [ease + generator.normal(0, 0.01, num) < 0.8 for _ in range(seeds)]
    theirs = [ease + generator.normal(0, 0.01, num) < 0.7 for _ in range(seeds)]
    return ours, theirs


def test_mean_and_sample_deviation() -> None:
    assert mean_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5))
    assert mean_std([4.0]) == (4.0, None)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_t_interval_is_scipys(level: float) -> None:
    expected = stats.t.interval(level, len(VALUES) - 1, loc=np.mean(VALUES), scale=stats.sem(VALUES))
    assert t_interval(VALUES, level=level) == pytest.approx(expected)


def test_fewer_than_five_seeds_give_no_interval() -> None:
    assert t_interval(VALUES[:4]) is None
    assert t_interval(VALUES[:5]) is not None


def test_the_bootstrap_gives_the_plain_difference_and_the_same_interval_each_time() -> None:
    ours, theirs = pair(500, seed=0)
    difference, low, high = paired_bootstrap(ours, theirs)
    assert difference == pytest.approx(100 * (np.mean(ours) - np.mean(theirs)))
    assert low < difference < high
    assert (difference, low, high) == paired_bootstrap(ours, theirs)
    assert paired_bootstrap(theirs, ours)[0] == pytest.approx(-difference)


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(60):
        _, low, high = paired_bootstrap(*pair(300, seed=seed), draws=300)
        hits += low <= 10.0 <= high
    assert hits >= 51  # of 60 at 95 %; binomial(60, 0.95) falls below this once in 600


def test_pairing_narrows_the_interval() -> None:
    ours, theirs = pair(1000, seed=1)
    shuffled = [np.random.default_rng(9).permutation(array) for array in theirs]
    paired, unpaired = paired_bootstrap(ours, theirs), paired_bootstrap(ours, shuffled)
    assert paired[2] - paired[1] < 0.7 * (unpaired[2] - unpaired[1])


def test_equal_methods_differ_by_nothing() -> None:
    ours, _ = pair(100, seed=2)
    assert paired_bootstrap(ours, ours) == (0.0, 0.0, 0.0)


def test_unequal_numbers_of_seeds_are_an_error() -> None:
    ours, theirs = pair(10, seed=0)
    with pytest.raises(ValueError, match="zip"):
        paired_bootstrap(ours, theirs[:2])
