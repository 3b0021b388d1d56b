"""The cells of a grid as they are asked for, and where they and the table of the grid stand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import JsonValue

from gkd.config.resolve import Resolved
from gkd.experiment.sides import sides_of
from gkd.methods.refusal import refusal
from gkd.storage.run_results import AbsentCell
from gkd.training.caches import Caches


@dataclass(frozen=True)
class Place:
    """A cell of a grid and the run that fills it.

    Attributes:
        label: the row's name: the method, or a labelled variant of it.
        axes: dotted key -> value of the other axes.
        resolved: the cell's experiment; its seed is ``resolved.experiment.run.seed``.
    """

    label: str
    axes: dict[str, JsonValue]
    resolved: Resolved

    @property
    def seed(self) -> int:
        return self.resolved.experiment.run.seed

    @property
    def row(self) -> str:
        """The row and its axes for the eye, the same for every seed, as in ``'kd', shift 25``."""
        axes = [f"{key.rsplit('.', 1)[-1]} {value}" for key, value in self.axes.items()]
        return ", ".join([repr(self.label), *axes])

    @property
    def file_name(self) -> str:
        """The name of the file with the cell's results."""
        return self.file_names[0]

    @property
    def absent_name(self) -> str:
        """The name of the file with the reason where the label relation denies the row; the same for every seed."""
        return self.absent_names[0]

    @property
    def file_names(self) -> list[str]:
        """``file_name``, and the names that earlier versions gave the file of the same run."""
        return [f"{stem}-seed{self.seed}.json" for stem in self._stems]

    @property
    def absent_names(self) -> list[str]:
        """``absent_name``, and those of earlier versions."""
        return [f"{stem}-absent.json" for stem in self._stems]

    @cached_property
    def _stems(self) -> list[str]:
        axes = "".join(f"-{key.rsplit('.', 1)[-1]}={value}" for key, value in self.axes.items())
        readable = re.sub(r"[^A-Za-z0-9.=\-]+", "_", f"{self.label}{axes}")[:80]
        identities = self.resolved.identities
        return [f"{readable}-{name}" for name in (identities.identity, *identities.former)]

    def absent(self, caches: Caches) -> AbsentCell | None:
        """The row with the reason why the label relation denies the method, or None."""
        experiment = self.resolved.experiment
        sides = sides_of(experiment, caches)
        reason = refusal(experiment.method, sides.taught_relation)
        if reason is None:
            return None
        return AbsentCell(label=self.label, axes=self.axes, relation=sides.relation.kind, absent=reason)


@dataclass(frozen=True)
class Places:
    """The folders of a grid's cells and of its table.

    The cells and the table that the file states go to ``compare.results``, which may be committed. What
    overrides make of the grid, other cells or a part of the table, stays beside the runs (``scratch``; earlier
    versions called that folder ``former``).
    """

    results: Path
    scratch: Path
    stated: frozenset[str] | None
    table: Path
    former: Path | None = None

    def has(self, cell: Place) -> bool:
        """Whether a cell's results, or the reason why it has none, are on disk, so that it needs no image."""
        return any(self.cell(names).is_file() for names in (cell.file_names, cell.absent_names))

    def cell(self, names: Sequence[str]) -> Path:
        """Where a cell's file stands or will stand; ``names`` are its own, then those that it may have from before."""
        here = self.stated is None or names[0] in self.stated
        folder = self.results if here else self.scratch
        former = [] if self.former is None or folder != self.scratch else [self.former]
        for place in (folder, *former):
            for name in names:
                if (place / "cells" / name).is_file():
                    return place / "cells" / name
        return folder / "cells" / names[0]
