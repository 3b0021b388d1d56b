"""Draws the pictures of the pages from the results that they show: ``python docs/pictures.py``.

Each picture states the checksum of the file that it is drawn from, and a test holds it against that file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
_LINES: dict[str, dict[str, Any]] = {
    "student": {"color": "#555555", "linestyle": "--"},
    "student, rate 0.1": {"color": "#999999", "linestyle": (0, (1, 1))},
    "refilled": {"color": "#c03a2b"},
    "refilled, rate 0.1": {"color": "#e6a59d", "linestyle": (0, (8, 2))},
    "refilled_joint": {"color": "#1f6fb2", "linestyle": "-."},
    "stage 2 from 0.05": {"color": "#8a5fbf", "linestyle": ":"},
    "stage 2 from 0.2": {"color": "#2f8f5b", "linestyle": (0, (5, 1, 1, 1))},
}
_WHOLE = ("student", "student, rate 0.1", "refilled", "refilled, rate 0.1", "refilled_joint")
# What is looked at, its title, the variants that are drawn.
_REFILLED = (
    ("ncm", "nearest class mean (%)", _WHOLE),
    ("rank", "effective rank", _WHOLE),
    ("teacher", "like the teacher's (CKA)", _WHOLE),
    (
        "kept",
        "what is left of stage 1 (CKA)",
        ("refilled", "refilled, rate 0.1", "stage 2 from 0.2", "stage 2 from 0.05"),
    ),
)


def refilled(variants: dict[str, Any]) -> Figure:
    """What the two stages of REFILLED do to the embedding, epoch by epoch, in four panels."""
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    drawn = {}
    for axes, (key, name, labels) in zip(figure.subplots(2, 2, sharex=True).flat, _REFILLED, strict=True):
        for label in labels:
            epochs = variants[label]["epochs"]
            points = [(number, each[key]) for number, each in enumerate(epochs, 1) if each[key] is not None]
            (drawn[label],) = axes.plot(*zip(*points, strict=True), linewidth=1.6, **_LINES[label])
        axes.axvline(20.5, color="grey", linewidth=0.6)
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.25)
    for axes in figure.axes[2:]:
        axes.set_xlabel("epoch (the second stage of two starts at the line)")
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=4, frameon=False)
    return figure


# Method -> colour and marker, told apart without colour too.
_METHODS = {
    "kd": ("#b58900", "v"),
    "sp": ("#2f8f5b", "s"),
    "refilled": ("#c03a2b", "^"),
    "refilled_joint": ("#1f6fb2", "D"),
    "queue_similarity": ("#8a5fbf", "P"),
    "auto": ("#111111", "o"),
}


def choosing(problems: dict[str, Any]) -> Figure:
    """What each method gains over the student alone, problem by problem; with an interval where it is over seeds."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots()
    for number, (method, (colour, marker)) in enumerate(_METHODS.items()):
        for column, found in enumerate(problems.values()):
            gain = found.get(method, {}).get("to_student")
            if gain is None:
                continue
            place = column + 0.12 * (number - (len(_METHODS) - 1) / 2)
            if gain["over_seeds"]:
                axes.vlines(place, *gain["over_seeds"], color=colour, linewidth=1.6)
            label = method if column == 0 else None
            axes.plot(
                place, gain["difference"], marker, color=colour, markersize=6, linestyle="none", label=label
            )
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xticks(range(len(problems)), problems)
    axes.set_ylabel("points above the student alone")
    axes.grid(axis="y", alpha=0.25)
    figure.legend(loc="outside lower center", ncols=len(_METHODS), frameon=False)
    return figure


# Picture -> the file that it is drawn from, and what draws it.
PICTURES: dict[str, tuple[str, Callable[[Any], Figure]]] = {
    "docs/choosing.svg": ("benchmarks/results/choosing.json", choosing),
    "docs/results/refilled.svg": (
        "benchmarks/results/refilled_stages.json",
        lambda content: refilled(content["variants"]),
    ),
}


def checksum(picture: str) -> str:
    """Of the file that a picture is drawn from."""
    return hashlib.sha256((ROOT / PICTURES[picture][0]).read_bytes()).hexdigest()


def draw(picture: str) -> None:
    """Write a picture as SVG, the same bytes for the same content, with where it comes from."""
    source, figure_of = PICTURES[picture]
    about = f"Drawn by docs/pictures.py from {source}, sha256 {checksum(picture)}"
    figure = figure_of(json.loads((ROOT / source).read_text()))
    with rc_context({"svg.hashsalt": "gkd", "svg.fonttype": "none"}):
        figure.savefig(ROOT / picture, metadata={"Date": None, "Description": about})


if __name__ == "__main__":
    for name in PICTURES:
        draw(name)
