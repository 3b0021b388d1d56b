"""The plot of a routed run says what its files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from gkd.report import run_plots as plots
from tests.nasty_names import NASTY
from tests.refusals import refused


def write(folder: Path, classes: list[str], shares: dict[str, list[float | None]], epochs: int = 3) -> None:
    records = [
        {"step": i, "epoch": i, "stage": "s", "loss": 1.0, **{f"share/{name}": i / 10 for name in shares}}
        for i in range(1, epochs + 1)
    ]
    before = {"step": 0, "epoch": 1, "stage": "before", "loss": 1.0}  # a stage that is not routed
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [before, *records]))
    content = {"stage": "s", "epoch": epochs, "classes": classes, "shares": shares}
    (folder / "routing.json").write_text(json.dumps(content))


def test_it_draws_every_spot_over_the_epochs_and_every_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    epochs, classes = plots._draw_epochs, plots._draw_classes
    monkeypatch.setattr(
        plots, "_draw_epochs", lambda axes, *rest: (epochs(axes, *rest), drawn.update(epochs=axes))
    )
    monkeypatch.setattr(
        plots, "_draw_classes", lambda axes, *rest: (classes(axes, *rest), drawn.update(classes=axes))
    )
    write(tmp_path, ["cat", "dog"], {"map1": [0.25, 0.75], "logits": [0.5, None]})
    path = plots.plot_routing(tmp_path)
    assert path == tmp_path / "routing.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    lines = {line.get_label(): line.get_xydata().tolist() for line in drawn["epochs"].get_lines()}
    assert lines.keys() == {"map1", "logits"}
    assert lines["map1"] == [[1, 10], [2, 20], [3, 30]]
    (image,) = drawn["classes"].get_images()
    assert [tick.get_text() for tick in drawn["classes"].get_xticklabels()] == ["dog", "cat"]
    assert image.get_array().filled(-1).tolist() == [
        [75, 25],
        [-1, 50],
    ]  # a class that was not seen stays blank


def test_each_stage_has_lines_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, ["cat"], {"logits": [0.5]})
    first = {"epoch": 1, "loss": 1.0, "stage": "first", "share/map0": 1.0, "share/logits": 1.0}
    with (tmp_path / "metrics.jsonl").open() as file:
        rest = file.readlines()[1:]
    records = [json.dumps({"step": i, **first}) + "\n" for i in range(2)] + rest
    (tmp_path / "metrics.jsonl").write_text("".join(records))
    axes = Figure().subplots()
    plots._draw_epochs(axes, [json.loads(line) for line in records], ["logits"])
    drawn = [line.get_xydata().tolist() for line in axes.get_lines() if line.get_label() == "logits"]
    assert drawn == [[[1, 100], [2, 100]]]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["logits", "map0"]
    assert [text.get_text() for text in axes.texts] == ["first", "s"]
    assert plots.plot_routing(tmp_path).is_file()


def test_many_classes_have_no_names(tmp_path: Path) -> None:
    write(tmp_path, [str(i) for i in range(100)], {"logits": [i / 100 for i in range(100)]}, epochs=40)
    assert plots.plot_routing(tmp_path).stat().st_size > 10_000


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, ["a"], {"logits": [0.5]})
    (tmp_path / "routing.json").write_text("{")
    with refused("file-unreadable"):
        plots.plot_routing(tmp_path)


def test_classes_stages_and_spots_of_nasty_names_are_drawn(tmp_path: Path) -> None:
    classes = list(NASTY.values())
    write(tmp_path, classes, {r"$\frac{1}$": [0.5] * len(classes), "_hidden": [0.5] * len(classes)})
    for name in ("metrics.jsonl", "routing.json"):
        path = tmp_path / name
        path.write_text(path.read_text().replace('"stage": "s"', r'"stage": "$\\frac{1}$"'))
    assert plots.plot_routing(tmp_path).read_bytes().startswith(b"\x89PNG")
