"""gkd rank: teachers in the order of what their embeddings know, whatever the method reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gkd.commands.rank import rank
from gkd.config.layers import Layer
from gkd.config.resolve import resolve
from gkd.models import build_network
from tests.cli_helpers import gkd


def weights(path: Path, network: str, classes: list[str], *, blind: bool = False) -> str:
    """A file of random weights; those of a blind network give every image the same embedding."""
    torch.manual_seed(0)
    state = build_network(network, num_classes=len(classes), in_channels=1).state_dict()
    if blind:
        state["conv1.weight"].zero_()
    save_file(state, path, {"classes": json.dumps(classes)})
    return str(path)


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """Digits 2 to 6; the first teacher is blind, the second a wider body without classes on larger images."""
    blind = weights(tmp_path / "blind.safetensors", "resnet8", [*"01234"], blind=True)
    wide = weights(tmp_path / "wide.safetensors", "resnet8x4", ["x", "y"])
    return {
        "task": {"name": "cross_task", "student_classes": [*"23456"]},
        "data": {"name": "digits", "per_class": 8, "batch_size": 20, "augment": "none"},
        "teachers": {
            "blind": {"network": "resnet8", "checkpoint": blind, "classes": "file"},
            "wide": {"network": "resnet8x4", "checkpoint": wide, "classes": None, "image_size": 12},
        },
        "student": {"network": "resnet8"},
        "method": "student",  # which reads none of them
        "run": {"epochs": 1, "threads": 1, "precision": "float32", "out": str(tmp_path / "runs")},
    }


def test_the_best_is_first_and_nothing_is_written(content: dict[str, Any], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    wide, blind = rank(resolve("rank", [Layer("experiment", content)]))
    assert (wide.name, blind.name) == ("wide", "blind")
    assert wide.probe.nearest_mean > 40 > blind.probe.nearest_mean  # chance is 20
    assert (wide.own, wide.relation.kind) == (None, "none")
    assert (wide.width, blind.width) == (256, 64)
    assert wide.parameters > blind.parameters
    assert blind.own is not None
    assert blind.own.near is not None  # its head answers by chance
    assert sorted(tmp_path.rglob("*")) == before


# Overrides of the experiment -> what the sentence says.
REFUSED = {
    ("data.validation=null",): "data.validation",
    ("teachers.blind.checkpoint=null", "teachers.blind.classes=task"): "teachers.blind is trained first",
    ("teachers.blind=null", "teachers.wide=null"): "no teacher to rank",
    ("teachers.blind.checkpoint=broken.safetensors",): "Of teachers.blind: ",
    ("teachers.blind.expect=90±1",): "Of teachers.blind: The teacher ",
    (
        "task={name: middle_shot, base: 5, novel: 5, most_shots: 5}",
        "data.per_class=null",
    ): "that are not trained on",
}


@pytest.mark.parametrize("overrides", REFUSED, ids=lambda overrides: overrides[0][:40])
def test_what_cannot_be_ranked_is_told_in_a_sentence(
    overrides: tuple[str, ...],
    content: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.safetensors").write_bytes(b"not weights")
    Path("rank.yaml").write_text(json.dumps(content))
    assert gkd("rank", "rank.yaml", *overrides) == 2
    said = capsys.readouterr().err
    assert REFUSED[overrides] in said
    assert said.count("\n") == 1, said


def test_the_table_is_printed_and_one_teacher_is_ranked_too(
    content: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rank.yaml").write_text(json.dumps(content))
    assert gkd("rank", "rank.yaml") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| teacher", "| wide", "| blind"]
    assert rows[1][4:] == ["–", "no classes", "1,207,521", "256 |"]
    assert rows[2][5] == "overlapping, 3 of 5"
    assert any(line.startswith("WARNING   the teacher blind has ") for line in lines)
    content["teacher"] = content.pop("teachers")["wide"]
    Path("rank.yaml").write_text(json.dumps(content))
    assert gkd("rank", "rank.yaml") == 0
    assert "| teacher | resnet8x4 | " in capsys.readouterr().out
