"""Run experiments: one folder each, continued where they stopped, reported where they are finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gkd.commands.evaluate import evaluate_run
from gkd.config.generations import generations_of
from gkd.config.identity import forget_files
from gkd.config.layers import Layer
from gkd.config.load import load
from gkd.config.resolve import Resolved, override_layers, resolve
from gkd.config.teacher_sections import teacher_sections
from gkd.config.trust import named_in
from gkd.core.errors import UserError, shown
from gkd.core.text import say
from gkd.experiment.earlier_runs import about_earlier_runs
from gkd.experiment.fit import Outcome
from gkd.experiment.judge import check_expected
from gkd.experiment.prepare import prepare
from gkd.experiment.run_folder import check_free, finished_or_mended, run_folder, write_summary
from gkd.experiment.solve import Job, solve_problem
from gkd.models.load import load_network
from gkd.report.incremental_table import CURVES_PLOT, plot_run
from gkd.report.run_plots import FEW_SHOT_PLOT, ROUTING_PLOT, can_plot, plot_few_shot, plot_routing
from gkd.storage.run_files import EPISODES, MATRIX, ROUTING, WEIGHTS
from gkd.storage.run_results import RunSummary
from gkd.training.caches import Caches
from gkd.training.device import use_threads


def run(
    resolved: Resolved, console: Console, *, wait: bool = False, caches: Caches | None = None
) -> tuple[RunSummary, bool]:
    """Run an experiment to its end, or continue it, or report it where it is finished.

    Args:
        resolved: the experiment.
        console: where progress is printed.
        wait: whether to wait for another process that is at the same run, rather than refuse.
        caches: shared with other runs of this process; None makes new ones.

    Returns:
        The summary, and whether anything was trained now.

    Raises:
        UserError: bad input, a full disk, a changed machine.
        Busy: another process is at the run, and ``wait`` is False.
        Interrupted: a signal asked to stop; everything is saved.
    """
    folder = run_folder(resolved)
    done = finished_or_mended(folder, lambda line: say(console, line))
    experiment = resolved.experiment
    for line in about_earlier_runs(resolved, folder):
        say(console, line)
    if done is not None:
        # The teacher of a generation after the first is the student before, of which the config expects nothing.
        sections = teacher_sections(experiment) if generations_of(experiment) == 1 else {}
        judged = {f"teachers.{name}": each for name, each in done.teachers.items()}
        if not judged and done.teacher is not None:
            judged = {"teacher": done.teacher}
        for key, taught in judged.items():
            if taught.accuracy is not None and key in sections:
                statement = (
                    f"The run {folder} is finished; its {key.replace('teachers.', 'teacher ')} had "
                    f"{taught.accuracy:.2f} % on its own classes"
                )
                check_expected(sections[key], taught.accuracy, statement, taught.near_chance)
        _plot(folder, console)
        return add_metrics(done, folder, resolved, console), False
    if not wait:
        check_free(folder)  # before the images and the teacher are read for nothing
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


def run_config(config: str | Path | Mapping[str, Any], **overrides: Any) -> Outcome:
    """Run an experiment to its end, as ``gkd run`` does, and load its students.

    Args:
        config: a shipped config's name, a path, or the sections of an experiment as a mapping.
        overrides: what changes in it: a section's keys as a mapping (``run={"seed": 1}``), a value
            (``method="sp"``), or dotted keys (``**{"run.seed": 1}``).

    Raises:
        UserError: bad input; what was finished before is whole.
    """
    words = [f"{key}={json.dumps(value)}" for key, value in _dotted(overrides)]
    if not isinstance(config, (str, Path, Mapping)):
        raise UserError(
            f"gkd.run takes a config's name, a path, or an experiment's sections as a mapping, not {shown(config)}.",
            code="not-a-config",
        )
    if isinstance(config, Mapping):
        forget_files()
        resolved = resolve("experiment", [Layer("experiment", dict(config)), *override_layers(words)])
    else:
        resolved = load(config, words)
    summary, _ = run(resolved, Console(quiet=True))
    folder, section = run_folder(resolved), resolved.experiment.student
    loaded = {
        which: load_network(folder / file, network=section.network, options=section.options)
        for which, file in WEIGHTS.items()
    }
    metadata = loaded["last"].metadata
    return Outcome(
        student=loaded["last"].network.eval(),
        best=loaded["best"].network.eval(),
        metrics=_metrics(summary),
        mean=metadata.mean or (),
        std=metadata.std or (),
        folder=folder,
    )


def _metrics(summary: RunSummary) -> dict[str, float]:
    """The numbers of an ``Outcome``: those of ``fit``, and the run's own ``evaluate.metrics``."""
    best = {"validation": summary.best.validation, "epoch": summary.best.epoch}
    metrics = {name: float(value) for name, value in best.items() if value is not None}
    for which, judged in (("last", summary.last), ("best", summary.best)):
        metrics[f"test/{which}"] = judged.accuracy
        metrics |= {f"test/{which}/{name}": value for name, value in judged.metrics.items()}
    return metrics


def _dotted(overrides: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf of nested mappings."""
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def add_metrics(summary: RunSummary, folder: Path, resolved: Resolved, console: Console) -> RunSummary:
    """Add the missing ``evaluate.metrics`` of a finished run to its summary, computed from the saved students.

    Where the folder cannot be written to, they are in the returned summary alone.
    """
    lacking = [name for name in resolved.experiment.evaluate.metrics if name not in summary.last.metrics]
    if not lacking:
        return summary
    trusted = resolved.trusted
    vouched = named_in(layer.content for layer in resolved.layers) if trusted is None else trusted
    judged = evaluate_run(folder, [f"evaluate.metrics={json.dumps(lacking)}"], vouched=vouched).judged
    students = {"last": summary.last, "best": summary.best}
    added = {
        which: student.model_copy(update={"metrics": {**student.metrics, **judged[which].metrics}})
        for which, student in students.items()
    }
    summary = summary.model_copy(update=added)
    try:
        write_summary(folder, summary)
    except UserError as error:
        say(console, f"note      the metrics are not kept: {error}")
    return summary


def _plot(folder: Path, console: Console) -> None:
    """Draw what a run's files show, where it has not been drawn yet; a plot that cannot be made or kept is said."""
    for content, plot, draw in (
        (ROUTING, ROUTING_PLOT, plot_routing),
        (EPISODES, FEW_SHOT_PLOT, plot_few_shot),
        (MATRIX, CURVES_PLOT, plot_run),
    ):
        if not (folder / content).is_file() or (folder / plot).is_file():
            continue
        shown = "no plot: matplotlib is missing; pip install 'gkd-torch[report]' and repeat the command"
        if can_plot():
            try:
                shown = f"plot      {draw(folder)}"
            except UserError as error:  # the results do not rest on it
                shown = f"note      no plot: {error}"
        say(console, shown)
