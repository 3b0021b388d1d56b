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
