"""Columns for the metrics that an experiment adds to those of every table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gkd.core.text import for_markdown
from gkd.metrics import mean_std
from gkd.storage.judged import Judged


def mean_metrics(judged: Sequence[Judged]) -> dict[str, float]:
    """Name -> mean of each metric that experiments add, over the networks that have it."""
    names = dict.fromkeys(name for each in judged for name in each.metrics)
    return {
        name: mean_std([each.metrics[name] for each in judged if name in each.metrics])[0] for name in names
    }


def metric_content(metrics: Mapping[str, float]) -> dict[str, object]:
    """Added metrics as columns of ``table.json`` and ``table.csv``, under a prefix of their own."""
    return {f"metric/{name}": value for name, value in metrics.items()}


def metric_names(rows: Iterable[Mapping[str, float]]) -> list[str]:
    """The names of the metrics of all rows, each once."""
    return list(dict.fromkeys(name for metrics in rows for name in metrics))


def metric_legend(names: Sequence[str]) -> str:
    """The end of a legend, on the added columns; empty where there are none."""
    return f" {', '.join(map(for_markdown, names))}: of the same student, mean over seeds." if names else ""
