"""Published numbers beside a grid's own: read from a CSV file, matched to rows, and judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from gkd.core.errors import UserError
from gkd.report.markdown import NONE, number, spread
from gkd.storage.csv_files import read_csv

_COLUMNS = ("config", "method", "accuracy", "source")
_SPREADS = (
    "std",
    "interval",
)  # columns of their own; all others are axes of the grid, or of its task's results
MARGIN = 0.5  # points on each side of our own interval, where nothing is published on the spread


@dataclass(frozen=True)
class Published:
    """A published accuracy, in percent.

    Attributes:
        label: the row of the grid.
        axes: axis -> value, as text; one that is left out matches every value. What a task's results go by beside the
            grid's axes is among them (``TaskOptions.numbers_by``).
        accuracy, std: mean over runs, and their standard deviation where it is published.
        source: where it stands.
        interval: half the width of its 95 % interval over episodes, where that is published.
    """

    label: str
    axes: Mapping[str, str]
    accuracy: float
    std: float | None
    source: str
    interval: float | None = None

    def fits(self, label: str, axes: Mapping[str, JsonValue]) -> bool:
        """Whether it is the number of a row at a place of the grid."""
        return label == self.label and all(str(axes.get(key)) == value for key, value in self.axes.items())

    def __str__(self) -> str:
        return ", ".join([repr(self.label), *(f"{key} {value}" for key, value in self.axes.items())])


def read_published(path: Path, config: str) -> list[Published]:
    """The numbers that a file has of a config.

    Args:
        path: a CSV file with the columns config, method, accuracy, source, perhaps std or interval, and those of axes,
            such as pair.
        config: the config's name; folders before it do not count.

    Raises:
        UserError: no such file, a column that is missing, a number that is none, or one without a source.
    """
    columns, lines = read_csv(path, "compare.published")
    lacking = [column for column in _COLUMNS if column not in columns]
    if lacking:
        raise UserError(
            f"{path} has no column {lacking[0]!r}; it needs {', '.join(_COLUMNS)}, and one for each axis it goes by; "
            f"{' and '.join(_SPREADS)} may be there.",
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
        accuracy = float(line["accuracy"])
        std, interval = (float(line[key]) if line.get(key) else None for key in _SPREADS)
    except (TypeError, ValueError):
        texts = [f"{key} {line[key]!r}" for key in ("accuracy", *_SPREADS) if line.get(key) is not None]
        raise UserError(
            f"{where}: {' or '.join(texts)} is no number; give percent, as 74.92.",
            code="published-number",
        ) from None
    if not line["source"]:
        raise UserError(
            f"{where} names no source; say where the number stands.", code="published-without-source"
        )
    axes = {key: text for key, text in line.items() if key not in (*_COLUMNS, *_SPREADS) and text}
    return Published(line["method"], axes, accuracy, std, line["source"], interval)


def number_of(numbers: Iterable[Published], label: str, axes: Mapping[str, JsonValue]) -> Published | None:
    """The published number of a row, the first that fits."""
    return next((each for each in numbers if each.fits(label, axes)), None)


@dataclass(frozen=True)
class Against:
    """A row's mean against a published number.

    Attributes:
        published: the number.
        difference: the row's mean less it, in points.
        within: whether the difference is within noise: two published standard deviations; where an interval over
            episodes is published, that and the row's own together; or else the row's own interval over seeds (the
            mean alone with fewer than five) and ``MARGIN`` points.
    """

    published: Published
    difference: float
    within: bool

    def content(self) -> dict[str, object]:
        """What ``table.json`` and ``table.csv`` have of it."""
        published = self.published
        deviation = {"published_std": published.std}
        if published.interval is not None:
            deviation = {"published_interval": published.interval}
        of_ours = {"to_published": self.difference, "within_noise": self.within}
        return {"published": published.accuracy, **deviation, "source": published.source, **of_ours}


def against(published: Published, mean: float, interval: Sequence[float] | None) -> Against:
    """Judge a row's mean, with its 95 % interval where it has one: over seeds, or over episodes as published."""
    difference = mean - published.accuracy
    if published.std is not None:
        return Against(published, difference, abs(difference) <= 2 * published.std)
    low, high = interval or (mean, mean)
    margin = MARGIN if published.interval is None else published.interval
    return Against(published, difference, low - margin <= published.accuracy <= high + margin)


def columns_of(rows: Sequence[Against | None], of: str = "") -> tuple[list[str], list[list[str]]]:
    """The heads and the cells of the columns on published numbers; none where no row has one.

    Args:
        rows: what each row is against.
        of: the number that is published, where a table has several.
    """
    if not any(rows):
        return [], [[] for _ in rows]
    cells = [
        [NONE, NONE]
        if row is None
        else [
            spread(row.published.accuracy, row.published.std or row.published.interval),
            f"{number(row.difference, '+.2f')}{'' if row.within else ' *'}",
        ]
        for row in rows
    ]
    return [f"published {of}".rstrip(), "Δ to published"], cells


def verdict(rows: Sequence[Against | None]) -> list[str]:
    """A line on how many rows are within noise of what is published, and what that means; none without such."""
    judged = [row for row in rows if row is not None]
    if not judged:
        return []
    within = sum(row.within for row in judged)
    sources = "; ".join(dict.fromkeys(row.published.source for row in judged))
    rules = ", or, ".join(sorted({_rule(row.published) for row in judged}, reverse=True))
    return [
        f"{within} of {len(judged)} within noise of the published numbers: {rules}. *: outside. "
        f"Published: {sources}."
    ]


def _rule(published: Published) -> str:
    """By what a row is within noise of a published number."""
    if published.std is not None:
        return "within two published standard deviations"
    if published.interval is not None:
        return "within the published interval over episodes and our own together"
    return f"where none is published, within our own interval over seeds (from 5 on) ± {MARGIN} points"
