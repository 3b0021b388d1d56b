"""Pairs of a grid in a CSV file beside the config."""

from __future__ import annotations

from pathlib import Path

import pytest

from gkd.config.load import load
from gkd.config.pair_files import read_pairs
from tests.refusals import refused


def written(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text)
    return path


def test_a_row_is_a_pair_and_an_empty_cell_sets_nothing(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "pair,teacher.network,student.network,optimiser.lr,terms.dkd.beta\n"
        "wide,wrn_40_2,wrn_16_2,,6\n"
        "small,resnet56,resnet20,1e-2,\n",
    )
    assert read_pairs(path) == {
        "wide": {"teacher.network": "wrn_40_2", "student.network": "wrn_16_2", "terms.dkd.beta": 6},
        "small": {"teacher.network": "resnet56", "student.network": "resnet20", "optimiser.lr": 0.01},
    }


def test_the_path_starts_where_the_config_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    written(tmp_path / "here", "pair,student.network\na,resnet8\n")
    config = tmp_path / "here" / "mine.yaml"
    config.write_text("extends: cross_task/digits\ncompare: {methods: [student], pairs: pairs.csv}\n")
    monkeypatch.chdir(tmp_path)
    compare = load(config).experiment.compare
    assert compare is not None
    assert compare.pairs == {"a": {"student.network": "resnet8"}}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "csv-unreadable"),
        ("", "pairs-without-names"),
        ("name,student.network\na,resnet8\n", "pairs-without-names"),
        ("pair,student.network\n,resnet8\n", "wrong-pair"),
        ("pair,student.network\na,resnet8\na,resnet14\n", "wrong-pair"),
        ("pair,student.network\na,[\n", "invalid-yaml"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str | None, code: str) -> None:
    path = tmp_path / "pairs.csv" if text is None else written(tmp_path, text)
    with refused(code):
        read_pairs(path)
