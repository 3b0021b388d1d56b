"""The table of a few-shot grid says what its cells say."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from gkd.few_shot.judging import packed
from gkd.report.few_shot_table import FewShotRow, few_shot_markdown, few_shot_rows
from gkd.report.published import Published
from gkd.storage.judged import EpisodeAnswers
from gkd.storage.run_results import AbsentCell, Cell
from tests import result_helpers

SETTING = "5-way 1-shot"


def right(seed: int, shift: int = 0) -> torch.Tensor:
    return torch.randint(20, 50, (40,), generator=torch.Generator().manual_seed(seed)) + shift


def cell(
    label: str,
    seed: int,
    counts: torch.Tensor,
    *,
    setting: str = SETTING,
    classifier: str = "cosine",
    drawn: str | None = None,
    **more: object,
) -> Cell:
    names = None if drawn is None else {setting: drawn}
    answers = packed({setting: {classifier: 100 * counts.double() / 75}}, {setting: 75}, names)
    teacher = packed({SETTING: {"cosine": 100 * (right(9) + 10).double() / 75}}, {SETTING: 75})
    episodes = EpisodeAnswers(last=answers, best=answers, teacher=None if label == "student" else teacher)
    judged = {"accuracy": 50.0 + seed, "ece": 1.0}
    return result_helpers.cell(
        label, seed=seed, last=judged, best=judged, seconds=3.0, episodes=episodes, **more
    )


def table(*cells: Cell) -> list[FewShotRow | AbsentCell]:
    return few_shot_rows(cells, [], baseline="student", report="last", order=["student", "sp"])


def rows(*cells: Cell) -> list[FewShotRow]:
    return [row for row in table(*cells) if isinstance(row, FewShotRow)]


def test_a_row_has_the_mean_over_seeds_and_the_paired_difference() -> None:
    cells = [cell("student", seed, right(seed)) for seed in (0, 1)]
    cells += [cell("sp", seed, right(seed, 3) + (right(5 + seed) > 40)) for seed in (0, 1)]
    teacher, student, sp = rows(*cells)
    assert [row.label for row in (teacher, student, sp)] == ["teacher", "student", "sp"]
    found = sp.settings[SETTING]
    ours = [right(seed, 3) + (right(5 + seed) > 40) for seed in (0, 1)]
    gains = torch.stack([own - right(seed) for seed, own in enumerate(ours)]).double().mean(0) * 100 / 75
    low, high = stats.t.interval(0.95, 39, loc=gains.mean(), scale=stats.sem(gains.numpy()))
    assert found.accuracy == pytest.approx(float(torch.stack(ours).double().mean()) * 100 / 75)
    assert found.difference == pytest.approx(float(gains.mean()))
    assert found.difference_interval == pytest.approx((high - low) / 2)
    assert found.difference_interval < found.interval
    assert (sp.n, sp.base) == (2, 50.5)
    assert student.settings[SETTING].difference is None
    assert "difference" not in student.settings[SETTING].content()
    assert teacher.settings[SETTING].difference is not None
    assert (teacher.base, teacher.seconds) == (None, None)


def test_a_teacher_that_keeps_its_classes_has_its_probe_beside_it() -> None:
    probe = {"nearest_mean": 57.9, "nearest_neighbours": 61.25, "images": 10}
    own = {"accuracy": 12.5, "hash": "a", "induced_accuracy": 3.0, "shared_accuracy": 20.0}
    found = rows(cell("student", 0, right(0)), cell("sp", 0, right(0, 1), teacher={**own, "probe": probe}))
    teacher, student, sp = found
    assert (teacher.probe, teacher.base) == ((57.9, 61.25), 12.5)
    assert teacher.content()["probe_nearest_neighbours"] == 61.25
    assert student.probe is None
    assert sp.probe is None
    lines = few_shot_markdown(found, baseline="student", axes=[]).text().splitlines()
    assert lines[0].endswith("| probe | base classes | n | s |")
    assert lines[2].endswith("| 57.90 / 61.25 | 12.50 | 1 | – |")
    assert lines[3].endswith("| – | 50.00 | 1 | 3.0 |")
    assert "probe: of a teacher that keeps classes of its own" in lines[-1]
    trained, *_ = rows(cell("student", 0, right(0)), cell("sp", 0, right(0, 1), teacher=own))
    assert (trained.probe, trained.base) == (None, None)


def test_a_published_number_stands_beside_its_setting_and_classifier() -> None:
    place = {"setting": SETTING, "classifier": "cosine"}
    numbers = [
        Published("sp", place, 60.0, None, "a paper", 40.0),
        Published("student", {**place, "classifier": "logistic"}, 50.0, None, "another", 0.1),
    ]
    found = few_shot_rows(
        [cell("student", 0, right(0)), cell("sp", 0, right(0, 1))],
        [],
        baseline="student",
        report="last",
        order=["student", "sp"],
        published=numbers,
    )
    teacher, student, sp = (row for row in found if isinstance(row, FewShotRow))
    content = sp.settings[SETTING].content()
    assert (content["published"], content["published_interval"], content["source"]) == (60.0, 40.0, "a paper")
    assert content["to_published"] == pytest.approx(sp.settings[SETTING].accuracy - 60)
    assert content["within_noise"] is True
    assert "published" not in {**student.settings[SETTING].content(), **teacher.settings[SETTING].content()}
    text = few_shot_markdown(found, baseline="student", axes=[]).text()
    assert f"| {SETTING} | Δ to student | published | Δ to published |" in text
    assert "| 60.00 ± 40.00 | " in text
    assert (
        "1 of 1 within noise of the published numbers: within the published interval over episodes and our own"
        in text
    )
    assert "published" not in few_shot_markdown(rows(cell("sp", 0, right(0))), baseline="sp", axes=[]).text()


def test_seeds_that_the_baseline_lacks_are_not_compared() -> None:
    *_, sp = rows(cell("student", 0, right(0)), cell("sp", 0, right(0, 1)), cell("sp", 1, right(1, 20)))
    assert sp.settings[SETTING].difference == pytest.approx(100 / 75)


def test_the_table_says_what_it_shows() -> None:
    text = few_shot_markdown(
        rows(cell("student", 0, right(0)), cell("sp", 0, right(0, 1))), baseline="student", axes=[]
    ).text()
    assert "| sp | cosine |" in text
    assert "+1.33 ± 0.00" in text
    assert "Student's t" in text
    assert "Leak" not in text


def test_a_leak_is_in_every_table() -> None:
    found = rows(cell("student", 0, right(0)), cell("sp", 0, right(0, 1), leak=["owl", "cat"]))
    text = few_shot_markdown(found, baseline="student", axes=[]).text()
    assert "**Leak**: the teacher was trained on 2 of the novel classes (cat, owl)." in text


def test_a_denied_row_says_why() -> None:
    denied = AbsentCell(label="kd", axes={}, absent="no class is shared", relation="disjoint")
    found = few_shot_rows(
        [cell("student", 0, right(0))], [denied], baseline="student", report="last", order=["student", "kd"]
    )
    text = few_shot_markdown(found, baseline="student", axes=[]).text()
    assert "| kd | – | – |" in text
    assert "kd is absent: no class is shared" in text


@pytest.mark.parametrize(
    "others",
    [
        {"drawn": "other"},
        {"classifier": "ridge"},
        {"setting": "5-way 5-shot"},
        {"counts": right(0)[:30]},
    ],
)
def test_what_was_judged_on_other_episodes_is_not_compared(others: dict[str, object]) -> None:
    told = {"counts": right(0), "drawn": "these", **others}
    *_, sp = rows(cell("student", 0, right(0), drawn="these"), cell("sp", 0, **told))
    (found,) = sp.settings.values()
    assert found.difference is None
    *_, sp = rows(cell("student", 0, right(0), drawn="these"), cell("sp", 0, right(0), drawn="these"))
    assert sp.settings[SETTING].difference == 0


def test_a_number_stands_under_its_own_setting() -> None:
    """As where an axis of the grid is task.episodes.shots."""
    few = cell("student", 0, right(0), axes={"task.episodes.shots": 1})
    many = cell("student", 0, right(1) + 20, setting="5-way 5-shot", axes={"task.episodes.shots": 5})
    text = few_shot_markdown(rows(few, many), baseline="student", axes=["task.episodes.shots"]).text()
    head, _, one, five, *_ = (line.split(" | ") for line in text.splitlines())
    assert head[3:7] == [SETTING, "Δ to student", "5-way 5-shot", "Δ to student"]
    assert [("±" in one[place], one[place] == "–") for place in (3, 5)] == [(True, False), (False, True)]
    assert [("±" in five[place], five[place] == "–") for place in (3, 5)] == [(False, True), (True, False)]
