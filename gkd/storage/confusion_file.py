"""Confusion matrices as CSV files: a line for each true class, a column for each predicted one."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from gkd.core.text import for_csv
from gkd.storage.whole_files import write_text

CORNER = "true \\ predicted"  # in the upper left cell


def write_confusion(path: Path, names: Sequence[str], counts: Tensor) -> None:
    """Write a confusion matrix as ``write_whole`` does.

    No result is read from it, so it stands in no manifest, and a spreadsheet may change it.

    Args:
        path: of the file.
        names: C class names; what cannot be seen in one is an escape.
        counts: int64 ``[C, C]``, rows true, columns predicted.
    """
    out = io.StringIO()
    shown = [str(for_csv(name)) for name in names]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([CORNER, *shown])
    writer.writerows([name, *row] for name, row in zip(shown, counts.tolist(), strict=True))
    write_text(path, out.getvalue())
