"""Metrics by name: ours against scikit-learn, a user's own, and what a wrong one says before training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score, recall_score, top_k_accuracy_score

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.metrics import METRICS, check_metric_name, check_metrics, compute_metrics
from tests.refusals import refused

MODULE = """
def shared(logits, labels, relation):
    return relation.num_shared

def halves(logits, labels, relation):
    logits.zero_()
    return labels.double().mean() / 2

def text(logits, labels, relation):
    return "much"

def infinite(logits, labels, relation):
    return float("inf")

def failing(logits, labels, relation):
    raise IndexError("too few columns")
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_metrics.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "made_metrics", raising=False)


def test_ours_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 8, (200,), generator=generator)  # of nine classes the last has no image
    logits = torch.randn(200, 9, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 9)
    answers = logits.argmax(1)
    values = compute_metrics(sorted(METRICS), logits, labels, None)
    assert values["macro_f1"] == pytest.approx(100 * f1_score(labels, answers, average="macro"))
    recall = recall_score(labels, answers, average="macro", labels=range(8))
    assert values["mean_class_accuracy"] == pytest.approx(100 * recall)
    top5 = top_k_accuracy_score(labels, logits.numpy(), k=5, labels=range(9))
    assert values["top5_accuracy"] == pytest.approx(100 * top5)
    assert list(values) == sorted(METRICS)


def test_a_users_own_reads_the_relation_and_changes_nothing() -> None:
    relation = LabelRelation(LabelSpace(["a", "b"]), LabelSpace(["b", "c"]))
    logits, labels = torch.ones(2, 2), torch.tensor([0, 1])
    values = compute_metrics(["made_metrics:shared", "made_metrics:halves"], logits, labels, relation)
    assert values == {"made_metrics:shared": 1.0, "made_metrics:halves": 0.25}
    assert logits.eq(1).all()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("text", "metric-fails"),
        ("infinite", "metric-not-finite"),
        ("failing", "metric-fails"),
        ("absent", "unknown-name"),
    ],
)
def test_a_wrong_metric_is_one_sentence_before_training(name: str, code: str) -> None:
    check_metric_name(f"made_metrics:{name}")  # imports nothing
    assert "made_metrics" not in sys.modules
    with refused(code) as caught:
        check_metrics([f"made_metrics:{name}"], 5, None)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_ours() -> None:
    with refused("unknown-metric"):
        check_metric_name("macro_f")
