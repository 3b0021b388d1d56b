"""Plots of a run folder; matplotlib (extra ``report``) is imported when one is drawn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from statistics import fmean
from typing import Any

from gkd.checkpoint import read_json
from gkd.logging import MetricsFile

ROUTING = "routing.json"
ROUTING_PLOT = "routing.png"
_MOST_NAMES = 40  # class names that still fit under the axis


def can_plot() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def plot_routing(folder: Path) -> Path:
    """Where a run distilled: the share of samples at each spot over the epochs, and of each class in the last one.

    Args:
        folder: a run folder with ``metrics.jsonl`` and ``routing.json``.

    Returns:
        ``routing.png`` in that folder.
    """
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state

    records = [
        record
        for record in MetricsFile(folder / "metrics.jsonl").read()
        if any(key.startswith("share/") for key in record)
    ]
    last = read_json(folder / ROUTING, keys=("stage", "epoch", "classes", "shares"))
    names = list(last["shares"])
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    over_epochs, over_classes = figure.subplots(2, 1, height_ratios=[3, max(1.0, 0.45 * len(names))])
    _draw_epochs(over_epochs, records, names)
    _draw_classes(over_classes, last, names)
    path = folder / ROUTING_PLOT
    figure.savefig(path, dpi=120)
    return path


def _draw_epochs(axes: Any, records: list[dict[str, Any]], names: list[str]) -> None:
    for name in names:
        points = [(i, 100 * r[f"share/{name}"]) for i, r in enumerate(records, 1) if f"share/{name}" in r]
        axes.plot(
            *zip(*points, strict=True), marker="o" if len(points) < 30 else None, markersize=3, label=name
        )
    axes.set(xlabel="epoch of routed training", ylabel="samples distilled (%)", ylim=(-3, 103))
    axes.set_title("Share of samples distilled at each spot (student-teacher)")
    axes.grid(alpha=0.3)
    axes.legend(title="spot", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _draw_classes(axes: Any, last: dict[str, Any], names: list[str]) -> None:
    """A heat map with a row a spot; classes from the most to the least distilled on average."""
    shares = [last["shares"][name] for name in names]
    means = [
        fmean([share for share in of_class if share is not None] or [0.0])
        for of_class in zip(*shares, strict=True)
    ]
    order = sorted(range(len(means)), key=lambda column: -means[column])
    image = axes.imshow(
        [[float("nan") if row[column] is None else 100 * row[column] for column in order] for row in shares],
        aspect="auto",
        vmin=0,
        vmax=100,
        interpolation="nearest",
    )
    axes.set_yticks(range(len(names)), names)
    if len(order) <= _MOST_NAMES:
        axes.set_xticks(
            range(len(order)), [last["classes"][column] for column in order], rotation=90, fontsize=7
        )
    else:
        axes.set_xlabel(f"{len(order)} classes, from the most to the least distilled")
    axes.set_title(f"By class, epoch {last['epoch']} of stage {last['stage']!r}")
    axes.figure.colorbar(image, ax=axes, label="samples distilled (%)")
