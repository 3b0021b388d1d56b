"""The kinds of faults, by name."""

from __future__ import annotations

from typing import Protocol

from tests.faults import configs, crashes, damaged_files, kills, tensors, weight_files
from tests.faults.verdict import Verdict
from tests.faults.workshop import Workshop


class Kind(Protocol):
    """A module of a kind; COUNT cases are tried in all."""

    COUNT: int

    def try_one(self, number: int, workshop: Workshop) -> Verdict: ...


KINDS: dict[str, Kind] = {
    "kills": kills,
    "crashes": crashes,
    "damaged_files": damaged_files,
    "configs": configs,
    "weight_files": weight_files,
    "tensors": tensors,
}
