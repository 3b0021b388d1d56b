"""Plots of a run folder; matplotlib (extra ``report``) is imported when one is drawn."""

from __future__ import annotations

import importlib.util
import itertools
import math
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from gkd.core.text import for_plot
from gkd.few_shot.judging import unpacked
from gkd.metrics.intervals import mean_interval
from gkd.storage.json_files import read_json
from gkd.storage.judged import EpisodeAnswers
from gkd.storage.records import read_record
from gkd.storage.run_files import EPISODES, ROUTING
from gkd.storage.whole_files import write_whole
from gkd.training.meter import MetricsFile

ROUTING_PLOT = "routing.png"


FEW_SHOT_PLOT = "few_shot.png"


_MOST_NAMES = 40  # class names that still fit under the axis


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot_routing(folder: Path) -> Path:
    """Plot the share of samples distilled at each spot, over the epochs and for each class in the last one.

    Args:
        folder: a run folder with ``metrics.jsonl`` and ``routing.json``.

    Returns:
        ``routing.png`` in that folder.
    """
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state

    records = [
        record
        for record in MetricsFile(folder / "metrics.jsonl").read()
        if "stage" in record and any(key.startswith("share/") for key in record)
    ]
    last = read_json(folder / ROUTING, keys=("stage", "epoch", "classes", "shares"))
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    over_epochs, over_classes = figure.subplots(2, 1, height_ratios=[3, max(1.0, 0.45 * len(last["shares"]))])
    _draw_epochs(over_epochs, records, list(last["shares"]))
    _draw_classes(over_classes, last)
    path = folder / ROUTING_PLOT
    write_whole(path, lambda aside: figure.savefig(aside, dpi=120))
    return path


def _draw_epochs(axes: Any, records: list[dict[str, Any]], last: list[str]) -> None:
    """Draw a line for each spot, the last stage's first; broken between stages, whose policies differ."""
    share_keys = (key for record in records for key in record if key.startswith("share/"))
    names = dict.fromkeys([*(f"share/{name}" for name in last), *share_keys])
    starts = [i for i, r in enumerate(records) if i == 0 or r["stage"] != records[i - 1]["stage"]]
    for name, marker in zip(names, itertools.cycle("os^vDPX"), strict=False):
        shares = [100 * record[name] if name in record else math.nan for record in records]
        line = None
        for start, end in itertools.pairwise([*starts, len(records)]):
            (line,) = axes.plot(
                range(start + 1, end + 1),
                shares[start:end],
                marker=marker,
                markersize=4,
                alpha=0.8,
                color=line.get_color() if line else None,
                label=None if line else for_plot(name.removeprefix("share/")),
            )
    for start in starts if len(starts) > 1 else ():
        axes.axvline(start + 0.5, color="grey", linewidth=0.8)
        axes.text(start + 0.6, 4, for_plot(records[start]["stage"]), color="grey")
    axes.set(xlabel="epoch of routed training", ylabel="gates on (% of samples)", ylim=(-3, 103))
    axes.set_title("Samples distilled at each spot (student-teacher)")
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if records:  # metrics.jsonl may be lost
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=6, frameon=False)


def _draw_classes(axes: Any, last: dict[str, Any]) -> None:
    """Draw a heat map with a row for each spot; classes from the most to the least distilled on average."""
    names, shares = list(last["shares"]), list(last["shares"].values())
    means = [
        fmean([share for share in of_class if share is not None] or [0.0])
        for of_class in zip(*shares, strict=True)
    ]
    order = sorted(range(len(means)), key=lambda column: -means[column])
    image = axes.imshow(
        [[math.nan if row[column] is None else 100 * row[column] for column in order] for row in shares],
        aspect="auto",
        vmin=0,
        vmax=100,
        interpolation="nearest",
    )
    axes.set_yticks(range(len(names)), map(for_plot, names))
    if len(order) <= _MOST_NAMES:
        axes.set_xticks(
            range(len(order)),
            [for_plot(last["classes"][column]) for column in order],
            rotation=90,
            fontsize=7,
        )
    axes.set_xlabel(f"{len(order)} classes, from the most to the least distilled")
    axes.set_title(f"By class, epoch {last['epoch']} of stage '{for_plot(last['stage'])}'")
    axes.figure.colorbar(image, ax=axes, label="gates on (%)", pad=0.01)


def plot_few_shot(folder: Path) -> Path:
    """Plot accuracy per shot of a run's last student, and of its teacher, with 95 % intervals over episodes.

    Args:
        folder: a run folder with ``episodes.json``.

    Returns:
        ``few_shot.png`` in that folder.
    """
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state

    answers = read_record(folder / EPISODES, EpisodeAnswers)
    ways = dict.fromkeys(setting.partition(" ")[0] for setting in answers.last)
    figure = Figure(figsize=(5.5 * len(ways), 4.2), layout="constrained")
    panels = figure.subplots(1, len(ways), squeeze=False)[0]
    for axes, way in zip(panels, ways, strict=True):
        axes.set_xscale("log")
        for who, packed, style in (("student", answers.last, "-"), ("teacher", answers.teacher, "--")):
            if packed is not None:
                _draw_shots(axes, unpacked(packed), way, who, style)
        axes.set(xlabel="shots", ylabel="accuracy on novel classes (%)", title=f"{for_plot(way)} episodes")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    path = folder / FEW_SHOT_PLOT
    write_whole(path, lambda aside: figure.savefig(aside, dpi=120))
    return path


def _draw_shots(axes: Any, accuracies: dict[str, dict[str, Tensor]], way: str, who: str, style: str) -> None:
    """Draw a line for each classifier: accuracy against the number of shots."""
    chosen = {
        int(setting.partition(" ")[2].removesuffix("-shot")): of_setting
        for setting, of_setting in accuracies.items()
        if setting.startswith(f"{way} ")
    }
    shots = sorted(chosen)
    for number, classifier in enumerate(chosen[shots[0]]):
        intervals = [mean_interval(chosen[count][classifier]) for count in shots]
        means, halves = zip(*intervals, strict=True)
        axes.errorbar(
            shots,
            means,
            yerr=halves,
            fmt=f"o{style}",
            color=f"C{number}",
            capsize=3,
            label=f"{who}, {for_plot(classifier)}",
        )
    axes.set_xticks(shots, [str(count) for count in shots])
    axes.minorticks_off()
