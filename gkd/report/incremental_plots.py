"""Plots of incremental runs; drawing imports matplotlib (extra ``report``), see `run_plots.can_plot`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.text import for_plot
from gkd.storage.whole_files import write_whole

_MATRICES_ACROSS = 4
_MOST_NUMBERS = 12  # steps whose accuracies still fit into the cells


@dataclass(frozen=True)
class Curve:
    """One line of `plot_curves`: the accuracies of a run, or of several over class orders or seeds.

    Attributes:
        name: for the legend.
        num_classes: the number of classes seen after each step.
        accuracies: for each run, the accuracy in percent on all classes seen after each step; NaN where it was not
            measured. Several runs are drawn as their mean within a band of one standard deviation (n − 1).
    """

    name: str
    num_classes: Sequence[int]
    accuracies: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        if not self.accuracies or any(len(run) != len(self.num_classes) for run in self.accuracies):
            raise UserError(
                f"The curve {self.name!r} has {len(self.num_classes)} steps and runs of "
                f"{[len(run) for run in self.accuracies]}; give at least one run, with an accuracy for each step.",
                code="other-steps",
            )


def plot_curves(curves: Sequence[Curve], path: Path, *, title: str = "") -> Path:
    """Plot the accuracy on the classes seen so far against their number, several runs in one picture.

    The legend gives each curve's average incremental accuracy, first step included.

    Args:
        curves: in the order of the legend; they may have different steps.
        path: of the PNG to write.
        title: above the axes.

    Returns:
        ``path``.

    Raises:
        UserError: no curve.
    """
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state

    if not curves:
        raise UserError(
            "A plot of incremental runs needs at least one of them; none was given.", code="no-curves"
        )
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for curve, marker in zip(curves, itertools.cycle("os^vDPX"), strict=False):
        _draw_curve(axes, curve, marker)
    axes.set(
        xlabel="number of classes", ylabel="accuracy on the classes seen so far (%)", title=for_plot(title)
    )
    ticks = sorted({number for curve in curves for number in curve.num_classes})
    if len(ticks) <= _MOST_NUMBERS:
        axes.set_xticks(ticks)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, title="average incremental accuracy (%)")
    write_whole(path, lambda aside: figure.savefig(aside, dpi=120))
    return path


def _draw_curve(axes: Any, curve: Curve, marker: str) -> None:
    steps = list(zip(*curve.accuracies, strict=True))
    means = [fmean(step) for step in steps]
    averages = [fmean(run) for run in curve.accuracies]
    name = for_plot(curve.name)
    label = f"{name}: {fmean(averages):.1f}"
    if len(averages) > 1:
        label += f" ± {stdev(averages):.1f} ({len(averages)} runs)"
    if math.isnan(fmean(averages)):  # a run that starts at a later step has no average
        label = name
    few = len(steps) <= 2 * _MOST_NUMBERS
    (line,) = axes.plot(
        curve.num_classes, means, marker=marker if few else None, markersize=5, alpha=0.9, label=label
    )
    if len(averages) > 1:
        spreads = [stdev(step) for step in steps]
        low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        axes.fill_between(curve.num_classes, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def plot_matrix(matrix: Tensor, num_classes: Sequence[int], path: Path, *, title: str = "") -> Path:
    """Plot the accuracy matrix as a heat map: a row for each trained step, a column for each step's classes.

    Args:
        matrix: float64 ``[T, K]`` in percent (see `gkd.incremental.accuracy_matrix`); cells without a
            measurement stay blank.
        num_classes: the number of classes that each of the K steps brings.
        path: of the PNG to write.
        title: above the axes.

    Returns:
        ``path``.

    Raises:
        UserError: not one number of classes for each column.
    """
    return plot_matrices([(title, matrix, num_classes)], path)


def plot_matrices(matrices: Sequence[tuple[str, Tensor, Sequence[int]]], path: Path) -> Path:
    """Plot accuracy matrices of several runs side by side, on one scale.

    Args:
        matrices: (title, matrix, num_classes) of each run, as `plot_matrix` takes them.
        path: of the PNG to write.

    Returns:
        ``path``.

    Raises:
        UserError: no matrix, or not one number of classes for each column.
    """
    from matplotlib.figure import Figure  # no pyplot: no window system, no global state

    if not matrices:
        raise UserError(
            "A plot of accuracy matrices needs at least one of them; none was given.", code="no-matrices"
        )
    for _, matrix, num_classes in matrices:
        if len(num_classes) != matrix.shape[1]:
            raise UserError(
                f"The accuracy matrix has {matrix.shape[1]} steps, but {len(num_classes)} numbers of classes were "
                "given; give one for each step.",
                code="other-steps",
            )
    across = min(len(matrices), _MATRICES_ACROSS)
    down = math.ceil(len(matrices) / across)
    rows, columns = (max(matrix.shape[side] for _, matrix, _ in matrices) for side in (0, 1))
    cell = min(0.5, 8 / max(rows, columns))  # inches
    width, height = 1.6 + max(cell * columns, 2.0), 1.2 + max(cell * rows, 1.8)
    figure = Figure(figsize=(1.2 + across * width, down * height), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes, (title, matrix, num_classes) in zip(grid.flat, matrices, strict=False):
        image = _draw_matrix(axes, matrix, num_classes, title)
    for axes in grid.flat[len(matrices) :]:
        axes.set_axis_off()
    figure.supxlabel("tested on the classes of step (+ how many)", fontsize="medium")
    figure.supylabel("after step (classes seen)", fontsize="medium")
    figure.colorbar(image, ax=grid, label="accuracy (%)", pad=0.02)
    write_whole(path, lambda aside: figure.savefig(aside, dpi=120 if len(matrices) == 1 else 90))
    return path


def _draw_matrix(axes: Any, matrix: Tensor, num_classes: Sequence[int], title: str) -> Any:
    rows, columns = matrix.shape
    image = axes.imshow(
        matrix.tolist(), vmin=0, vmax=100, cmap="viridis", aspect="auto", interpolation="nearest"
    )
    seen = list(itertools.accumulate(num_classes))
    _label_steps(axes.xaxis, [f"{k + 1}\n+{count}" for k, count in enumerate(num_classes)])
    _label_steps(axes.yaxis, [f"{t + 1} ({seen[t]})" for t in range(rows)])
    axes.set_title(for_plot(title))
    axes.spines[:].set_visible(False)
    if max(rows, columns) <= _MOST_NUMBERS:
        for t, k in itertools.product(range(rows), range(columns)):
            value = matrix[t, k].item()
            if not math.isnan(value):
                # Viridis is dark below and light above.
                axes.text(
                    k, t, f"{value:.0f}", ha="center", va="center", color="white" if value < 60 else "black"
                )
    return image


def _label_steps(axis: Any, labels: list[str]) -> None:
    """Set as many tick labels as fit, evenly spaced from the first on."""
    every = math.ceil(len(labels) / (2 * _MOST_NUMBERS))
    axis.set_ticks(range(0, len(labels), every), labels[::every])
