"""A grid before it is trained: its cells as commands, and a dry run of every row at every place."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.cli_helpers import gkd

GRID = (
    "compare", "cross_task/digits", "compare.methods=[student, kd, fsp]", "compare.seeds=[0, 1]",
    "compare.axes={task.shift: [0, 5]}", "compare.results=table", "run.epochs=2", "run.threads=1", "data.per_class=4",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_printed_command_runs_a_cell(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*GRID[:2], "compare.methods=[student, kd]", *GRID[3:]]
    assert gkd(*words, "--print") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8  # kd over disjoint classes too, of which only a run says that it cannot be
    assert not Path("runs").exists()
    name, *run = shlex.split(next(line for line in lines if 'method="kd"' in line and "run.seed=1" in line))
    assert name == "gkd"
    assert gkd(*run) == 0
    capsys.readouterr()
    assert gkd(*words) == 0
    printed = capsys.readouterr().out
    assert "6 cells, 5 cells trained now" in printed
    assert gkd(*words, "--print") == 0
    assert capsys.readouterr().out == ""


def test_a_dry_run_tries_every_row_at_every_place(capsys: pytest.CaptureFixture[str]) -> None:
    wide = "compare.pairs={alike: {teacher.network: resnet14}, wide: {teacher.network: resnet8x4}}"
    assert gkd(*GRID, wide, "--dry-run") == 2
    lines = capsys.readouterr().out.splitlines()
    said = {(line[:10].strip(), line[10:].partition(": ")[0]) for line in lines[:-1]}
    assert said == {
        *(("ok", f"'student', pair {pair}, shift {shift}") for pair in ("alike", "wide") for shift in (0, 5)),
        *(("ok", f"'kd', pair {pair}, shift 0") for pair in ("alike", "wide")),
        *(("absent", f"'kd', pair {pair}, shift 5") for pair in ("alike", "wide")),
        *(("ok", f"'fsp', pair alike, shift {shift}") for shift in (0, 5)),
        *(("failed", f"'fsp', pair wide, shift {shift}") for shift in (0, 5)),
    }
    assert lines[-1].startswith("expected  16 cells, 0.0 hours of training here")
    assert not Path("runs").exists()
    assert not Path("table").exists()


def test_a_finished_row_is_not_tried(capsys: pytest.CaptureFixture[str]) -> None:
    words = (*GRID[:2], "compare.methods=[student]", "compare.seeds=[0]", *GRID[4:])
    assert gkd(*words) == 0
    capsys.readouterr()
    assert gkd(*words, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        "finished  'student', shift 0",
        "finished  'student', shift 5",
        "expected  0 cells, 0.0 hours of training here, one after the other",
    ]
