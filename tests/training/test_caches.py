"""What runs share in memory: held as long as the object that holds it."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from gkd.config.load import load
from gkd.config.schema import Data
from gkd.experiment.judge import cached_predictions
from gkd.experiment.prepare import prepare
from gkd.experiment.sources import load_source
from gkd.experiment.teachers import random_teacher
from gkd.training.caches import Caches, Recent


def test_the_value_that_was_asked_for_longest_ago_gives_way() -> None:
    made: list[str] = []
    values: Recent[str] = Recent(2)
    for key in ("a", "b", "a", "c", "a", "b"):
        assert values.get(key, lambda key=key: made.append(key) or key) == key  # type: ignore[misc, func-returns-value]
    assert made == ["a", "b", "c", "b"]
    assert len(values) == 2


def test_runs_share_what_their_caches_hold_and_it_goes_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    caches, counted = Caches(), []
    monkeypatch.setattr(
        "gkd.experiment.judge.teacher_predictions",
        lambda *_: counted.append(1) or (torch.zeros(1), torch.zeros(1)),
    )
    for method in ("kd", "sp"):
        prepared = prepare(load("cross_task/digits", [f"method={method}"]), caches=caches)
        assert prepared.settings.caches is caches
        torch.manual_seed(0)
        teacher = random_teacher(prepared).eval()
        cached_predictions(teacher, prepared.problem.student.test, prepared.settings)
    assert len(counted) == 1
    assert len(caches.sources) == 1
    data = Data(name="digits")
    held = weakref.ref(load_source(data, caches))
    gc.collect()
    assert load_source(data, caches) is held()
    del caches, prepared
    gc.collect()
    assert held() is None
