"""What is kept of episodes, and how models are compared on them."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from gkd.few_shot.judging import packed, paired, summarised, unpacked

SETTING = "5-way 1-shot"


def accuracies(seed: int, count: int = 50, queries: int = 75) -> torch.Tensor:
    right = torch.randint(0, queries + 1, (count,), generator=torch.Generator().manual_seed(seed))
    return 100 * right.double() / queries


def test_packing_loses_nothing() -> None:
    kept = {
        SETTING: {"cosine": accuracies(0), "ridge": accuracies(1)},
        "20-way 1-shot": {"cosine": accuracies(2, 9, 300)},
    }
    back = unpacked(packed(kept, {SETTING: 75, "20-way 1-shot": 300}))
    for setting, of_setting in kept.items():
        for name, values in of_setting.items():
            torch.testing.assert_close(back[setting][name], values, rtol=0, atol=1e-12)


def test_intervals_are_scipys() -> None:
    values = accuracies(0)
    found = summarised({SETTING: {"cosine": values}})[SETTING]["cosine"]
    low, high = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values.numpy()))
    assert found.accuracy == pytest.approx(float(values.mean()), abs=1e-4)
    assert found.interval == pytest.approx((high - low) / 2, abs=1e-4)


def test_differences_are_paired() -> None:
    """Two models that move together from episode to episode differ far more surely than their intervals say."""
    common = accuracies(0)
    ours, theirs = {SETTING: {"cosine": common + 1 + 0.1 * accuracies(3)}}, {SETTING: {"cosine": common}}
    gap = paired(ours, theirs)[SETTING]["cosine"]
    difference = ours[SETTING]["cosine"] - common
    low, high = stats.t.interval(0.95, 49, loc=difference.mean(), scale=stats.sem(difference.numpy()))
    assert gap.accuracy == pytest.approx(float(difference.mean()), abs=1e-4)
    assert gap.interval == pytest.approx((high - low) / 2, abs=1e-4)
    assert gap.interval < summarised(ours)[SETTING]["cosine"].interval / 5
