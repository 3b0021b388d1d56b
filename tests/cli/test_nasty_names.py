"""A grid over images, stages, terms, rows and a config whose names an enemy gave, from its first line to its tables."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from gkd.core.text import decoded, visible
from gkd.storage.weight_metadata import WeightMetadata
from tests.cli_helpers import gkd
from tests.nasty_names import NASTY

# Those that a folder can have.
CLASSES = [
    name
    for name in NASTY.values()
    if name and not {"/", "\0"} & set(name) and len(name) < 99 and name.strip(".")
]
LABELS = ["=1+2", "cat | dog", r"$\frac{1}$", "\x1b[2Jcat", "[/x]"]
STAGE, TERM = "[/x]\x1b[2J", "a.b\n[bold]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of all classes, and the config ``...yaml``, whose stem is the folder above."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("nasty")
    generator = np.random.default_rng(0)
    for split, name in ((split, name) for split in ("train", "test") for name in CLASSES):
        place = folder / "images" / split / name
        place.mkdir(parents=True)
        for number in range(2 if split == "train" else 1):
            Image.fromarray(generator.integers(0, 255, (8, 8), dtype=np.uint8)).save(place / f"{number}.png")
    stage = {"epochs": 1, "terms": {TERM: {"loss": "cross_entropy"}}}
    method = {"name": "m", "paper": "p\nq", "summary": "s", "stages": {STAGE: stage}}
    method["sources"] = {f"stages.{STAGE}.epochs": "ours\nrun: {epochs: 9}"}
    rows = [
        {"label": label, "method": "student", "set": {"optimiser.lr": 0.01 + i}}
        for i, label in enumerate(LABELS)
    ]
    content = {
        "task": {"name": "standard"}, "data": {"name": "folder", "root": "images", "validation": {"per_class": 1}},
        "student": {"network": "resnet8"}, "method": method, "run": {"epochs": 1, "threads": 1, "out": "in/runs"},
        "compare": {"methods": rows[:1], "baseline": LABELS[0]},
    }  # fmt: skip
    (folder / "...yaml").write_text(yaml.safe_dump(content))
    content["compare"]["methods"] = rows
    (folder / "grid.yaml").write_text(yaml.safe_dump(content))
    return folder


def obeyed(text: str) -> set[str]:
    """The characters that a terminal would obey."""
    return {each for each in text if not each.isprintable() and each not in "\n\u200c"}


def test_a_run_ends_says_what_it_did_and_writes_below_its_folder_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = set(os.listdir("."))
    for _ in range(2):  # the second time it is read
        assert gkd("run", "...yaml") == 0, capsys.readouterr().err
    assert gkd("validate", "...yaml") == 0
    printed = capsys.readouterr()
    assert obeyed(printed.out + printed.err) == set()
    assert rf"{visible(STAGE)} 1/1" in printed.out
    assert set(os.listdir(".")) == before | {"in"}
    assert os.listdir("in") == ["runs"]
    (weights,) = Path("in/runs").rglob("student.safetensors")
    classes = WeightMetadata.read(weights).classes
    assert sorted(classes) == sorted(map(decoded, CLASSES))
    config = yaml.safe_load((weights.parent / "config.yaml").read_text())
    assert (config["run"]["epochs"], list(config["method"]["stages"])) == (1, [STAGE])
    assert gkd("eval", str(weights.parent)) == 0
    image = next(Path("images/test").rglob("*.png"))
    assert gkd("predict", str(weights.parent), str(image)) == 0
    shown = capsys.readouterr().out
    assert obeyed(shown) == set()
    assert shown.rpartition(": ")[2].rpartition(" (")[0] in map(visible, classes)


def test_the_tables_of_a_grid_show_its_rows_as_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert gkd("compare", "grid.yaml") == 0, capsys.readouterr().err
    assert obeyed(capsys.readouterr().out) == set()
    (table,) = Path("in/runs/grid").glob("table*/table.md")
    tokens = MarkdownIt("commonmark").enable("table").parse(table.read_text())
    cells = [
        "".join(child.content for child in token.children or ()) for token in tokens if token.type == "inline"
    ]
    assert [cell for cell in cells if cell in map(visible, LABELS)] == list(map(visible, LABELS))
    rows = list(csv.DictReader(table.with_suffix(".csv").read_text().splitlines()))
    assert [row["label"] for row in rows] == ["'=1+2", *map(visible, LABELS[1:])]
    assert [row["label"] for row in json.loads(table.with_suffix(".json").read_text())["rows"]] == LABELS
