"""Published numbers beside a grid's own: read from a CSV file, matched to rows, and judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from gkd.core.errors import UserError
from gkd.report.markdown import NONE, number, spread
from gkd.storage.csv_files import read_csv

_COLUMNS = ("config", "method", "accuracy", "std", "source")  # the others are axes of the grid
MARGIN = 0.5  # points on each side of our own interval, where nothing is published on the spread


@dataclass(frozen=True)
class Published:
    """A published accuracy, in percent.

    Attributes:
        label: the row of the grid.
        axes: axis -> value, as text; one that is left out matches every value.
        accuracy, std: mean over runs, and their standard deviation where it is published.
        source: where it stands.
    """

    label: str
    axes: Mapping[str, str]
    accuracy: float
    std: float | None
    source: str

    def fits(self, label: str, axes: Mapping[str, JsonValue]) -> bool:
        """Whether it is the number of a row at a place of the grid."""
        return label == self.label and all(str(axes.get(key)) == value for key, value in self.axes.items())

    def __str__(self) -> str:
        return ", ".join([repr(self.label), *(f"{key} {value}" for key, value in self.axes.items())])


def read_published(path: Path, config: str) -> list[Published]:
    """The numbers that a file has of a config.

    Args:
        path: a CSV file with the columns config, method, accuracy, std, source, and those of axes, such as pair.
        config: the config's name; folders before it do not count.

    Raises:
        UserError: no such file, a column that is missing, a number that is none, or one without a source.
    """
    columns, lines = read_csv(path, "compare.published")
    lacking = [column for column in _COLUMNS if column not in columns]
    if lacking:
        raise UserError(
            f"{path} has no column {lacking[0]!r}; it needs {', '.join(_COLUMNS)}, and one for each axis it goes by.",
            code="published-without-columns",
        )
    name = config.rpartition("/")[2]
    return [
        _published(line, f"{path}, line {place}")
        for place, line in enumerate(lines, 2)
        if line["config"] == name
    ]


def _published(line: Mapping[str, str], where: str) -> Published:
    try:
        accuracy, std = float(line["accuracy"]), float(line["std"]) if line["std"] else None
    except (TypeError, ValueError):
        raise UserError(
            f"{where}: accuracy {line['accuracy']!r} or std {line['std']!r} is no number; give percent, as 74.92.",
            code="published-number",
        ) from None
    if not line["source"]:
        raise UserError(
            f"{where} names no source; say where the number stands.", code="published-without-source"
        )
    axes = {key: text for key, text in line.items() if key not in _COLUMNS and text}
    return Published(line["method"], axes, accuracy, std, line["source"])


def number_of(numbers: Iterable[Published], label: str, axes: Mapping[str, JsonValue]) -> Published | None:
    """The published number of a row, the first that fits."""
    return next((each for each in numbers if each.fits(label, axes)), None)


@dataclass(frozen=True)
class Against:
    """A row's mean against a published number.

    Attributes:
        published: the number.
        difference: the row's mean less it, in points.
        within: whether the difference is within noise: two published standard deviations, or, where none is published,
            the row's own interval over seeds (the mean alone with fewer than five) and ``MARGIN`` points.
    """

    published: Published
    difference: float
    within: bool


def against(published: Published, mean: float, interval: Sequence[float] | None) -> Against:
    """Judge a row's mean, with its 95 % interval over seeds where it has one."""
    difference = mean - published.accuracy
    if published.std is not None:
        return Against(published, difference, abs(difference) <= 2 * published.std)
    low, high = interval or (mean, mean)
    return Against(published, difference, low - MARGIN <= published.accuracy <= high + MARGIN)


def columns_of(rows: Sequence[Against | None]) -> tuple[list[str], list[list[str]]]:
    """The heads and the cells of the columns on published numbers; none where no row has one."""
    if not any(rows):
        return [], [[] for _ in rows]
    cells = [
        [NONE, NONE]
        if row is None
        else [
            spread(row.published.accuracy, row.published.std),
            f"{number(row.difference, '+.2f')}{'' if row.within else ' *'}",
        ]
        for row in rows
    ]
    return ["published", "Δ to published"], cells


def verdict(rows: Sequence[Against | None]) -> list[str]:
    """A line on how many rows are within noise of what is published, and what that means; none without such."""
    judged = [row for row in rows if row is not None]
    if not judged:
        return []
    within = sum(row.within for row in judged)
    without = sum(row.published.std is None for row in judged)
    sources = "; ".join(dict.fromkeys(row.published.source for row in judged))
    rule = "within two published standard deviations" if without < len(judged) else ""
    if without:
        rule += ", or, " if rule else ""
        rule += f"where none is published, within our own interval over seeds (from 5 on) ± {MARGIN} points"
    return [
        f"{within} of {len(judged)} within noise of the published numbers: {rule}. *: outside. Published: {sources}."
    ]
