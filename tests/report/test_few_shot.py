"""The table of a few-shot grid says what its cells say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats

from gkd.few_shot import packed
from gkd.report.few_shot import few_shot_markdown, few_shot_rows

SETTING = "5-way 1-shot"


def right(seed: int, shift: int = 0) -> torch.Tensor:
    return torch.randint(20, 50, (40,), generator=torch.Generator().manual_seed(seed)) + shift


def cell(label: str, seed: int, counts: torch.Tensor, **more: Any) -> dict[str, Any]:
    kept = packed({SETTING: {"cosine": 100 * counts.double() / 75}}, {SETTING: 75})
    teacher = packed({SETTING: {"cosine": 100 * (right(9) + 10).double() / 75}}, {SETTING: 75})
    episodes = {"last": kept, "best": kept, **({} if label == "student" else {"teacher": teacher})}
    judged = {"accuracy": 50.0 + seed, "ece": 1.0}
    return {
        "label": label, "axes": {}, "seed": seed, "relation": {"kind": "same"}, "last": judged, "best": judged,
        "seconds": 3.0, "episodes": episodes, **more,
    }  # fmt: skip


def rows(*cells: dict[str, Any]) -> list[dict[str, Any]]:
    return few_shot_rows(cells, [], baseline="student", report="last", order=["student", "sp"])


def test_a_row_has_the_mean_over_seeds_and_the_paired_difference() -> None:
    cells = [cell("student", seed, right(seed)) for seed in (0, 1)]
    cells += [cell("sp", seed, right(seed, 3) + (right(5 + seed) > 40)) for seed in (0, 1)]
    teacher, student, sp = rows(*cells)
    assert [row["label"] for row in (teacher, student, sp)] == ["teacher", "student", "sp"]
    found = sp["settings"][SETTING]
    ours = [right(seed, 3) + (right(5 + seed) > 40) for seed in (0, 1)]
    gains = torch.stack([own - right(seed) for seed, own in enumerate(ours)]).double().mean(0) * 100 / 75
    low, high = stats.t.interval(0.95, 39, loc=gains.mean(), scale=stats.sem(gains.numpy()))
    assert found["accuracy"] == pytest.approx(float(torch.stack(ours).double().mean()) * 100 / 75)
    assert found["difference"] == pytest.approx(float(gains.mean()))
    assert found["difference_interval"] == pytest.approx((high - low) / 2)
    assert found["difference_interval"] < found["interval"]
    assert (sp["n"], sp["base"]) == (2, 50.5)
    assert "difference" not in student["settings"][SETTING]
    assert "difference" in teacher["settings"][SETTING]


def test_seeds_that_the_baseline_lacks_are_not_compared() -> None:
    *_, sp = rows(cell("student", 0, right(0)), cell("sp", 0, right(0, 1)), cell("sp", 1, right(1, 20)))
    assert sp["settings"][SETTING]["difference"] == pytest.approx(100 / 75)


def test_the_table_says_what_it_shows() -> None:
    text = few_shot_markdown(
        rows(cell("student", 0, right(0)), cell("sp", 0, right(0, 1))), baseline="student", axes=[]
    )
    assert "| sp | cosine |" in text
    assert "+1.33 ± 0.00" in text
    assert "Student's t" in text
    assert "Leak" not in text


def test_a_leak_is_in_every_table() -> None:
    found = rows(cell("student", 0, right(0)), cell("sp", 0, right(0, 1), leak=["owl", "cat"]))
    text = few_shot_markdown(found, baseline="student", axes=[])
    assert "**Leak**: the teacher was trained on 2 of the novel classes (cat, owl)." in text


def test_a_denied_row_says_why() -> None:
    denied = {"label": "kd", "axes": {}, "absent": "no class is shared", "relation": "disjoint"}
    found = few_shot_rows(
        [cell("student", 0, right(0))], [denied], baseline="student", report="last", order=["student", "kd"]
    )
    text = few_shot_markdown(found, baseline="student", axes=[])
    assert "| kd | – | – |" in text
    assert "kd is absent: no class is shared" in text
