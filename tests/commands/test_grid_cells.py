"""The cells of a grid with pairs: what changes together, in which rows, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gkd.commands.grid_cells import cells, count, published_numbers, section
from gkd.config.load import load
from tests.refusals import refused

PAIRS = {
    "small": {"teacher.network": "resnet14", "student.network": "resnet8", "terms.dkd.beta": 2},
    "large": {"teacher.network": "resnet20", "student.network": "resnet14", "optimiser.lr": 0.01},
}


def words(**compare: Any) -> list[str]:
    of_grid = {"pairs": PAIRS, "methods": ["student", "kd", "dkd"], "axes": {"task.shift": [0]}, **compare}
    return [f"compare.{key}={json.dumps(value)}" for key, value in of_grid.items()]


def test_a_pair_changes_all_its_keys_at_once() -> None:
    resolved = load("cross_task/digits", words())
    grid = list(cells(resolved))
    assert len(grid) == count(section(resolved)) == 2 * 2 * 3
    for cell in grid:
        experiment, pair = cell.resolved.experiment, PAIRS[cell.axes["pair"]]
        assert cell.axes == {"pair": cell.axes["pair"], "task.shift": 0}
        assert experiment.student.network == pair["student.network"]
        assert experiment.teacher is not None
        assert experiment.teacher.network == pair["teacher.network"]
        terms = experiment.method.stages[next(iter(experiment.method.stages))].terms
        if cell.label == "dkd":
            assert terms["dkd"].options["beta"] == pair.get("terms.dkd.beta", 8.0)
    rates = {
        (cell.axes["pair"], stage.optimiser.lr)
        for cell in grid
        for stage in cell.resolved.experiment.method.stages.values()
    }
    assert rates == {("small", 0.05), ("large", 0.01)}
    assert len({cell.file_name for cell in grid}) == len(grid)
    assert all(f"pair={cell.axes['pair']}" in cell.file_name for cell in grid)


@pytest.mark.parametrize("asked", ["large", ["large"]])
def test_one_pair_is_asked_for_by_name(asked: Any) -> None:
    whole, one = (load("cross_task/digits", words(**more)) for more in ({}, {"pair": asked}))
    assert count(section(one)) == 6
    assert {cell.axes["pair"] for cell in cells(one)} == {"large"}
    # The same runs as in the whole grid.
    assert {cell.file_name for cell in cells(one)} < {cell.file_name for cell in cells(whole)}


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"pair": "huge"}, "invalid-config"),
        ({"pairs": {"a": {"task.shift": 1}}}, "invalid-config"),
        ({"pairs": {"a": {"terms.dkd": 1}}}, "invalid-config"),
        ({"pairs": {"a": {"terms.sp.weight": 1}}}, "unknown-term"),
        ({"pairs": {"a": {"student.network": "resnet8", "student.widht": 1}}}, "invalid-config"),
    ],
)
def test_a_wrong_pair_is_refused_before_the_first_run(more: dict[str, Any], code: str) -> None:
    with refused(code):
        list(cells(load("cross_task/digits", words(**more))))


HEADS = {
    "few_shot/digits": "config,method,setting,classifier,accuracy,source\ndigits,kd",
    "incremental/digits": "config,method,answers,number,accuracy,source\ndigits,finetune",
}


@pytest.mark.parametrize(
    ("name", "place", "code"),
    [
        ("few_shot/digits", "5-way 1-shot,nearest-mean", None),
        ("few_shot/digits", "5-way 7-shot,nearest-mean", "published-without-cell"),
        ("few_shot/digits", "5-way 1-shot,svm", "published-without-cell"),
        ("few_shot/digits", "5-way 1-shot,", "published-without-place"),
        ("incremental/digits", "ncm,last", None),
        ("incremental/digits", "ncm,first", "published-without-cell"),
        ("incremental/digits", ",last", "published-without-place"),
    ],
)
def test_a_published_number_says_which_result_it_is_of(
    name: str, place: str, code: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "published.csv"
    path.write_text(f"{HEADS[name]},{place},50,a paper\n")
    resolved = load(name, [f"compare.published={path}"])
    if code is None:
        (number,) = published_numbers(resolved)
        assert set(place.split(",")) == set(number.axes.values())
        return
    with refused(code):
        published_numbers(resolved)


def test_an_override_that_a_pair_sets_is_lost() -> None:
    resolved = load("cross_task/digits", [*words(), "student.network=resnet20"])
    with refused("override-lost") as told:
        list(cells(resolved))
    assert "compare.pairs" in str(told.value)
