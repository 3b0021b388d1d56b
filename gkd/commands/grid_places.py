"""Where the cells and the table of a grid stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


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
