"""What the verbs print on a terminal fits it; what goes into a file or a pipe is whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_helpers import FAST, gkd, on_a_terminal
from tests.step_helpers import WORDS as STEPS

GRID = (
    "compare", "cross_task/digits", *FAST, "compare.seeds=[0]", "compare.methods=[student, sp]",
    "run.precision=float32", "compare.axes={task.shift: [2]}", "compare.results=table",
)  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a finished grid, and a finished run of several steps; it is the current one."""
    folder = tmp_path_factory.mktemp("terminal")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert gkd(*GRID) == 0
        assert gkd("run", *STEPS, "method=replay", "task.memory_per_class=5") == 0
        yield folder


def verbs(folder: Path) -> list[tuple[str, ...]]:
    run = str(next((folder / "runs" / "cross_task" / "digits").glob("sp-*/seed0")).relative_to(folder))
    return [
        (*GRID, "--finished"),
        ("run", *STEPS, "method=replay", "task.memory_per_class=5"),
        ("run", run + "/config.yaml", "--dry-run"),
        ("eval", run),
        ("show", "podnet"),
        ("ls",),
    ]


def long_lines(lines: list[str], columns: int) -> list[str]:
    """The lines beyond a width that could be broken: those that are more than one long word, such as a path."""
    return [line for line in lines if len(line) > columns and len(line.split()) > 1]


@pytest.mark.parametrize("columns", [80, 100, 240])
def test_lines_fit_the_terminal_and_are_100_columns_at_most(workshop: Path, columns: int) -> None:
    for words in verbs(workshop):
        lines = on_a_terminal(columns, *words)
        assert long_lines(lines, min(columns, 100)) == [], words
        assert len(lines) > 2, words


def test_a_grids_table_is_whole_in_its_file_and_in_a_pipe(
    workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert gkd(*GRID, "--finished") == 0
    printed = capsys.readouterr().out
    head = "| relation | method | teacher | induced | student alone | distilled | best | Δ to student [over images] |"
    assert head in printed
    assert (workshop / "table" / "table.md").read_text().startswith(head)
    lines = on_a_terminal(80, *GRID, "--finished")
    assert lines[0].split("  ")[0] == "relation"
    assert lines[2].startswith("overlapping  student")
    (left_out,) = (line for line in lines if line.startswith("Left out here"))
    assert left_out == "Left out here, for it is wide: teacher, induced, best, n, s."
    assert sum("Test accuracy in percent" in line for line in lines) == 1
    assert lines[-1].endswith("Table: table/table.md")
