"""benchmarks/refilled_stages.py: what it looks at is what it says, and what is committed is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.scripts import script

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "refilled_stages.json"


@pytest.fixture(scope="module")
def stages():
    return script("benchmarks/refilled_stages.py")


def test_the_effective_rank_counts_equal_axes(stages):
    corners = torch.cat([torch.eye(4), -torch.eye(4)])
    assert stages.effective_rank(corners) == pytest.approx(4)
    assert stages.effective_rank(corners[:, :1] * torch.ones(1, 3)) == pytest.approx(1)


def test_the_alignment_knows_turned_and_unrelated_embeddings(stages):
    torch.manual_seed(0)
    rows = torch.randn(2000, 6)
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    assert stages.linear_cka(rows, 3 * rows @ turn + 1) == pytest.approx(1)
    assert stages.linear_cka(rows, torch.randn(2000, 6)) < 0.02


def test_what_is_committed_is_whole_and_its_table_is_of_it(stages):
    variants = json.loads(RESULT.read_text())["variants"]
    assert set(variants) == set(stages.VARIANTS)
    for label, each in variants.items():
        assert each["overrides"] == [*stages.SHARED, *stages.VARIANTS[label]], label
        assert len(each["epochs"]) == 40
    assert RESULT.with_suffix(".md").read_text() == stages.table(variants)
