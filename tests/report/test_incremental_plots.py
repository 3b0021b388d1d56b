"""The plots of incremental runs say what they were given."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gkd.incremental.accuracy_matrix import accuracy_matrix
from gkd.report.incremental_plots import Curve, plot_curves, plot_matrices, plot_matrix
from tests.refusals import refused

MATRIX = accuracy_matrix([[80], [90, 70], [60, 75, 85]])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of every figure that is saved; a heat map's come before those of its colour bar."""
    axes: list[Axes] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: object, **options: object) -> None:
        axes.extend(figure.axes)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return axes


def test_curves_lie_over_each_other_at_their_numbers_of_classes(tmp_path: Path, drawn: list[Axes]) -> None:
    curves = [
        Curve("ours", [10, 20, 30], [[90, 70, 50], [80, 70, 70]]),
        Curve("finetuned", [20, 30], [[60, 20]]),
        Curve("begun late", [20, 30], [[math.nan, 20]]),
    ]
    path = plot_curves(curves, tmp_path / "curves.png", title="digits")
    assert path == tmp_path / "curves.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn
    assert [line.get_xydata().tolist() for line in axes.get_lines()[:2]] == [
        [[10, 85], [20, 70], [30, 60]],
        [[20, 60], [30, 20]],
    ]
    (legend,) = axes.figure.legends  # beside the axes, where it hides no curve
    labels = [text.get_text() for text in legend.get_texts()]
    # Averages of 70 and 73.3: their mean, and the standard deviation of the two.
    assert labels == ["ours: 71.7 ± 2.4 (2 runs)", "finetuned: 40.0", "begun late"]
    (band,) = axes.collections
    at_ten = [y for x, y in band.get_paths()[0].vertices if x == 10]
    assert (min(at_ten), max(at_ten)) == pytest.approx((85 - 50**0.5, 85 + 50**0.5))
    assert axes.get_title() == "digits"
    assert axes.get_xticks().tolist() == [10, 20, 30]


def test_many_steps_are_a_line_without_markers(tmp_path: Path, drawn: list[Axes]) -> None:
    steps = list(range(50, 101))
    plot_curves([Curve("one by one", steps, [[1.0 * step for step in steps]])], tmp_path / "curves.png")
    (line,) = drawn[0].get_lines()
    assert line.get_marker() == "None"
    assert len(drawn[0].get_xticks()) < 12


def test_a_matrix_has_its_accuracies_in_the_cells_and_blanks_above(tmp_path: Path, drawn: list[Axes]) -> None:
    path = plot_matrix(MATRIX, [50, 10, 5], tmp_path / "matrix.png", title="ours")
    assert path.read_bytes().startswith(b"\x89PNG")
    axes = drawn[0]
    (image,) = axes.get_images()
    assert image.get_array().filled(-1).tolist() == [[80, -1, -1], [90, 70, -1], [60, 75, 85]]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "80", (0, 1): "90", (1, 1): "70", (0, 2): "60", (1, 2): "75", (2, 2): "85"}
    assert [text.get_text() for text in axes.get_yticklabels()] == ["1 (50)", "2 (60)", "3 (65)"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1\n+50", "2\n+10", "3\n+5"]


def test_a_matrix_of_many_steps_has_no_numbers_and_few_labels(tmp_path: Path, drawn: list[Axes]) -> None:
    plot_matrix(torch.full((51, 51), 50.0).tril(), [50] + [1] * 50, tmp_path / "matrix.png")
    assert len(drawn[0].texts) == 0
    assert [text.get_text() for text in drawn[0].get_yticklabels()][:3] == ["1 (50)", "4 (53)", "7 (56)"]
    assert len(drawn[0].get_xticklabels()) == 17


def test_a_run_on_its_way_has_fewer_rows(tmp_path: Path, drawn: list[Axes]) -> None:
    plot_matrix(MATRIX[:1], [50, 10, 5], tmp_path / "matrix.png")
    assert [text.get_text() for text in drawn[0].get_yticklabels()] == ["1 (50)"]
    assert len(drawn[0].get_xticklabels()) == 3


def test_matrices_of_several_runs_stand_side_by_side(tmp_path: Path, drawn: list[Axes]) -> None:
    other = torch.tensor([[10.0, math.nan], [20.0, 30.0]], dtype=torch.float64)
    five = [("a", MATRIX, [50, 10, 5]), *((name, other, [2, 3]) for name in "bcde")]
    plot_matrices(five, tmp_path / "matrices.png")
    shown = [axes for axes in drawn if axes.get_images() and axes.get_title()]
    assert [axes.get_title() for axes in shown] == list("abcde")
    assert {axes.get_images()[0].get_clim() for axes in shown} == {(0, 100)}
    assert [text.get_text() for text in shown[1].texts] == ["10", "20", "30"]
    assert [text.get_text() for text in shown[4].get_xticklabels()] == ["1\n+2", "2\n+3"]
    assert sum(not axes.axison for axes in drawn) == 3, "the rest of the second row is empty"


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with refused("no-curves"):
        plot_curves([], tmp_path / "curves.png")
    with refused("other-steps"):
        Curve("a", [1, 2], [[1, 2], [1, 2, 3]])
    with refused("other-steps"):
        Curve("a", [1, 2], [])
    with refused("no-matrices"):
        plot_matrices([], tmp_path / "matrices.png")
    with refused("other-steps"):
        plot_matrix(MATRIX, [50, 10], tmp_path / "matrix.png")


def test_nasty_names_are_drawn_as_they_are(tmp_path: Path, drawn: list[Axes]) -> None:
    names = [r"$\frac{1}$", "_hidden", "\x1b[2J", "$cat$"]
    curves = [Curve(name, [10, 20], [[90, 70]]) for name in names]
    plot_curves(curves, tmp_path / "curves.png", title=names[0])
    plot_matrices([(name, MATRIX, [1, 1, 1]) for name in names], tmp_path / "matrices.png")
    legend = [text.get_text() for text in drawn[0].figure.legends[0].get_texts()]
    assert legend == [r"\$\frac{1}\$: 80.0", " _hidden: 80.0", r"\x1b[2J: 80.0", r"\$cat\$: 80.0"]
    assert [axes.get_title() for axes in drawn[1:5]] == [r"\$\frac{1}\$", " _hidden", r"\x1b[2J", r"\$cat\$"]
