"""What a run says on the terminal while it trains."""

from __future__ import annotations

import io

from rich.console import Console

from gkd.training.progress import Reporter


def test_plain_lines_come_now_and_then_and_at_the_end() -> None:
    stream = io.StringIO()
    record = {"stage": "distil", "epochs": 4, "loss": 1.0, "validation/accuracy": 50.0}
    with Reporter(Console(file=stream, width=200), "digits kd seed 0", every=3600) as reporter:
        reporter._said = float("inf")  # as if a line had just been written
        for epoch in range(1, 5):
            reporter.step(epoch, 4)
            reporter.epoch({**record, "epoch": epoch}, last=epoch == 4)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("digits kd seed 0  distil 4/4  loss 1.0000  accuracy 50.00")


def test_a_bar_shows_nasty_names_as_they_are() -> None:
    nasty = "[/x][bold]\x1b[2J\n:cat:"
    stream = io.StringIO()
    console = Console(file=stream, width=200, force_terminal=True, legacy_windows=False)
    with Reporter(console, nasty) as reporter:
        reporter.step(1, 2)
        reporter.epoch({"stage": nasty, "epoch": 1, "epochs": 2, "loss": 1.0}, last=False)
        assert reporter._bar is not None
        reporter._bar.refresh()
    assert stream.getvalue().count(r"[/x][bold]\x1b[2J\n:cat:") >= 2
    assert "\x1b[2J" not in stream.getvalue()
