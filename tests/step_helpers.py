"""Short incremental runs, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from gkd.storage.weights import read_weights
from tests.cli_helpers import gkd

# Six digits, then two and two; a second a run.
WORDS = (
    "incremental/digits", "task.base=6", "task.increment=2", "task.base_epochs=2", "run.epochs=2", "run.threads=1",
    "data.batch_size=64",
)  # fmt: skip


def run(*words: str) -> Path:
    """The folder of a run on digits, or of one that is there already."""
    before = set(Path("runs").rglob("matrix.json"))
    assert gkd("run", *WORDS, *words) == 0
    (path,) = set(Path("runs").rglob("matrix.json")) - before
    return path.parent


def read(folder: Path, name: str = "summary") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return content


def normalise(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def student(folder: Path, name: str = "student") -> dict[str, torch.Tensor]:
    return read_weights(folder / f"{name}.safetensors")[0]
