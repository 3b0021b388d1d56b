"""Runs: one folder each, continued where they stopped, reported where they are finished."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from gkd.config.resolve import Resolved
from gkd.experiment.judge import check_expected
from gkd.experiment.prepare import prepare
from gkd.experiment.run_folder import finished, run_folder
from gkd.experiment.solve import Job, solve_problem
from gkd.report.incremental_table import CURVES_PLOT, plot_run
from gkd.report.run_plots import FEW_SHOT_PLOT, ROUTING_PLOT, can_plot, plot_few_shot, plot_routing
from gkd.storage.run_files import EPISODES, MATRIX, ROUTING
from gkd.storage.run_results import RunSummary
from gkd.training.caches import Caches
from gkd.training.device import use_threads


def run(
    resolved: Resolved, console: Console, *, wait: bool = False, caches: Caches | None = None
) -> tuple[RunSummary, bool]:
    """Solves an experiment's problems, or continues, or reports them where they are finished.

    Args:
        resolved: the experiment.
        console: where to say how it goes.
        wait: whether to wait for another process that is at the same run, rather than refuse.
        caches: of the runs that go before and after; without them this one has its own.

    Returns:
        The summary, and whether anything was trained now.

    Raises:
        UserError: bad input, a full disk, a changed machine.
        Interrupted: a signal asked to stop; everything is saved.
    """
    folder = run_folder(resolved)
    done = finished(folder)
    experiment = resolved.experiment
    if done is not None:
        if done.teacher is not None and experiment.teacher is not None:
            accuracy = done.teacher.accuracy
            told = f"The run {folder} is finished; its teacher had {accuracy:.2f} % on its own classes"
            check_expected(experiment.teacher, accuracy, told)
        _plot(folder, console)
        return done, False
    threads = use_threads(experiment.run.threads)
    torch.use_deterministic_algorithms(experiment.run.deterministic)
    prepared = prepare(resolved, caches=caches)

    def solve_first(other: Resolved) -> Path:
        run(other, console, wait=True, caches=prepared.settings.caches)
        return run_folder(other)

    solve = type(prepared.task).solver or solve_problem
    summary, trained = solve(Job(prepared, folder, threads, console, solve_first, wait))
    if trained:
        _plot(folder, console)
    return summary, trained


def _plot(folder: Path, console: Console) -> None:
    """Draws what a run's files show, where it has not been drawn yet."""
    for content, plot, draw in (
        (ROUTING, ROUTING_PLOT, plot_routing),
        (EPISODES, FEW_SHOT_PLOT, plot_few_shot),
        (MATRIX, CURVES_PLOT, plot_run),
    ):
        if not (folder / content).is_file() or (folder / plot).is_file():
            continue
        shown = "no plot: matplotlib is missing; pip install 'gkd-torch[report]' and repeat the command"
        if can_plot():
            shown = f"plot      {draw(folder)}"
        console.print(shown, markup=False, highlight=False, soft_wrap=True)
