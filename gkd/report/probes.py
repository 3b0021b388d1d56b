"""What the embeddings of teachers that keep classes of their own know of the student's classes, in a grid's tables."""

from __future__ import annotations

from collections.abc import Sequence

from gkd.metrics import mean_std
from gkd.report.markdown import number
from gkd.storage.judged import TeacherResult

PROBE_LEGEND = (
    " probe: of a teacher that keeps classes of its own, what its embedding knows of the student's, on the validation "
    "images: nearest class mean / nearest neighbours."
)


def mean_probe(teachers: Sequence[TeacherResult]) -> tuple[float, float] | None:
    """Means over teachers of their probes, in percent: by nearest class mean, by nearest neighbours; None of none."""
    probes = [teacher.probe for teacher in teachers if teacher.probe is not None]
    if not probes:
        return None
    columns = ([probe.nearest_mean for probe in probes], [probe.nearest_neighbours for probe in probes])
    return mean_std(columns[0])[0], mean_std(columns[1])[0]


def probe_content(probe: tuple[float, float] | None) -> dict[str, object]:
    """A probe by column, as ``table.json`` and ``table.csv`` have it; empty without one."""
    return {} if probe is None else {"probe_nearest_mean": probe[0], "probe_nearest_neighbours": probe[1]}


def shown_probe(probe: tuple[float, float] | None) -> str:
    """A probe in one cell of a table."""
    return " / ".join(map(number, probe or [None]))
