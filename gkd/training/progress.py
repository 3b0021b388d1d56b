"""The progress of a run on the console: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gkd.core.text import for_terminal, say, visible


class Reporter:
    """Progress as a user sees it: a bar on a terminal, a plain line every few seconds elsewhere.

    Args:
        console: where to write.
        title: the name of the run.
        every: seconds between plain lines.
    """

    def __init__(self, console: Console, title: str, *, every: float = 10.0) -> None:
        self.console = console
        self.title = title
        self.every = every
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = 0.0
        self._started = time.monotonic()

    def __enter__(self) -> Reporter:
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._shown(self.title), total=None, note="")
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def note(self, line: str) -> None:
        """Print a line about something out of the ordinary."""
        say(self.console, f"note      {line}")

    def step(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps are done; cheap enough to call at every step."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def epoch(self, record: Mapping[str, Any], *, last: bool) -> None:
        """Show a finished epoch; ``record`` is its line of metrics.jsonl."""
        note = f"{record['stage']} {record['epoch']}/{record['epochs']}  loss {record['loss']:.4f}"
        note += "".join(
            f"  {name.removeprefix('validation/')} {record[name]:.2f}"
            for name in record
            if name.startswith("validation/")
        )
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=self._shown(note))
        elif last or time.monotonic() - self._said >= self.every:
            self._said = time.monotonic()
            say(self.console, f"{visible(self.title)}  {visible(note)}  {self._said - self._started:.0f} s")

    def _shown(self, text: str) -> str:
        return for_terminal(visible(text), self.console.encoding)
