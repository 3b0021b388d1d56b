"""Running means on the device, and ``metrics.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.storage.whole_files import append_text, write_text


class Diverged(UserError):
    """A loss or a weight is no longer finite; nothing of that state was saved."""


class Meter:
    """Running means on the device, and a latch that keeps the first non-finite step and term.

    Nothing here waits for the device until ``read`` is called.
    """

    def __init__(self, device: torch.device) -> None:
        self.names: list[str] = []
        self.count = 0
        self._sums = torch.zeros(0, dtype=torch.float64, device=device)
        self._latch = torch.full((), -1, dtype=torch.int64, device=device)

    def add(self, losses: Mapping[str, Tensor], step: int) -> None:
        """Add one step's 0-dim values; ``step`` is the global step that the latch reports."""
        if not self.names:
            # Terms before their sum, so that the latch names the term that broke first.
            self.names = sorted(losses, key=lambda name: (name == "loss", name))
            self._sums = torch.zeros(len(self.names), dtype=torch.float64, device=self._sums.device)
        values = torch.stack([losses[name].detach().double() for name in self.names])
        bad = ~torch.isfinite(values)
        code = step * len(self.names) + bad.to(torch.int64).argmax()
        self._latch = torch.where((self._latch < 0) & bad.any(), code, self._latch)
        self._sums += values
        self.count += 1

    def check(self) -> None:
        """Raise Diverged where a value was not finite; wait for the device."""
        latched = int(self._latch)
        if latched >= 0:
            step, position = divmod(latched, len(self.names))
            raise Diverged(
                f"{self.names[position]} became non-finite at step {step}; no such state was saved. "
                "Lower optimiser.lr or the term's weight, or set optimiser.clip_norm.",
                code="loss-not-finite",
            )

    def read(self) -> dict[str, float]:
        """The means so far (sums for ``empty/...``), by name; waits for the device."""
        self.check()
        sums = self._sums.tolist()
        return {
            name: total if name.startswith("empty/") else total / max(self.count, 1)
            for name, total in zip(self.names, sums, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        return {"names": self.names, "count": self.count, "sums": self._sums.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.names, self.count = list(state["names"]), int(state["count"])
        self._sums = state["sums"].to(self._sums.device)


class MetricsFile:
    """``metrics.jsonl``: one line an epoch, cut back to the checkpoint's step when a run resumes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut_back(self, step: int) -> int:
        """Remove every record after the global step, and every damaged line; returns how many of the latter there were.

        A last line that a kill left half-written is not counted.
        """
        lines, damaged = self._lines()
        write_text(self.path, "".join(line for line, record in lines if record["step"] <= step))
        return damaged

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record; the file is synced, so that no checkpoint outlives the lines before it."""
        append_text(self.path, json.dumps(record, allow_nan=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """The records; damaged lines are left out."""
        return [record for _, record in self._lines()[0]]

    def _lines(self) -> tuple[list[tuple[str, dict[str, Any]]], int]:
        """Each whole line that is a record, with it; and how many whole lines are none."""
        if not self.path.is_file():
            return [], 0
        lines, damaged = [], 0
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            record = _record(line)
            if record is None:
                damaged += 1
            else:
                lines.append((f"{line}\n", record))
        return lines, damaged


def _record(line: str) -> dict[str, Any] | None:
    """A line of metrics as its record; None where it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None
    return record
