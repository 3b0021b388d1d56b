"""Ctrl-C that saves: the first one asks the loop to stop, the second one stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """The run was stopped by a signal and its state is saved; the command line exits with 130."""


class Interrupt:
    """A context in which SIGINT and SIGTERM set ``requested`` instead of killing the process.

    Args:
        ignored: leaves the signals as they are, for a run that saves nothing.
    """

    def __init__(self, *, ignored: bool = False) -> None:
        self.ignored = ignored
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if not self.ignored and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._stop)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        signal.signal(
            number, signal.SIG_IGN
        )  # a third one would break what is cleared away until the context ends
        raise KeyboardInterrupt
