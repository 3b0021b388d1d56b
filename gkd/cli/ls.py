"""gkd ls: list methods, losses and whatever else a config names."""

from __future__ import annotations

import argparse
import re

from rich.console import Console

from gkd.config.shipped import shipped_configs, shipped_methods, shipped_weights
from gkd.core.plugins import distribution, entry_point_table
from gkd.data import DATASETS
from gkd.data.augment.chain import augmentation_summaries
from gkd.losses import LOSSES, Loss
from gkd.methods.optimiser_names import optimiser_names
from gkd.metrics import METRICS
from gkd.models import network_summaries
from gkd.models.external import PATTERNS
from gkd.problems.task import TASKS, task_class

HELP = "list methods, losses, tasks, networks, data sets, optimisers, metrics, augmentations and configs"
KINDS = (
    "methods", "losses", "tasks", "networks", "data", "optimisers", "metrics", "augmentations", "configs",
)  # fmt: skip
# Kind -> the entry-point group in which other packages offer more of it.
_GROUPS = {
    "methods": "gkd.methods",
    "losses": "gkd.losses",
    "tasks": "gkd.tasks",
    "networks": "gkd.networks",
    "data": "gkd.datasets",
    "optimisers": "gkd.optimisers",
    "metrics": "gkd.metrics",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=KINDS, help="what to list; all where it is left out")


def main(arguments: argparse.Namespace, console: Console) -> int:
    for kind in [arguments.kind] if arguments.kind else KINDS:
        if arguments.kind is None:
            console.print(f"{kind}:", highlight=False)
        entries = _entries(kind)
        entries |= {name: about for name, about in _offered(kind).items() if name not in entries}
        width = max(map(len, entries))
        for name, about in entries.items():
            console.print(f"  {name:{width}}  {about}".rstrip(), markup=False, highlight=False)
    return 0


def _offered(kind: str) -> dict[str, str]:
    """Plug-ins of a kind by name, each with the package that it is from; none is imported."""
    return {
        name: " and ".join(f"{point.value} of the package {distribution(point)}" for point in points)
        for name, points in entry_point_table(_GROUPS.get(kind, "")).items()
    }


def _entries(kind: str) -> dict[str, str]:
    if kind == "methods":
        return {name: f"{method.summary} [{method.paper}]" for name, method in shipped_methods().items()}
    if kind == "losses":
        weights = shipped_weights()
        return {name: _about(loss, weights.get(name)) for name, loss in LOSSES.items()}
    if kind == "tasks":
        shipped = [name for name, point in TASKS.items() if point.value.startswith("gkd.")]
        return {name: _first_line(task_class(name).__doc__) for name in shipped}
    if kind == "networks":
        return {**{name: _first_line(about) for name, about in network_summaries().items()}, **PATTERNS}
    if kind == "data":
        return {name: _first_line(reader.__doc__) for name, reader in DATASETS.items()}
    if kind == "augmentations":
        return augmentation_summaries()
    if kind == "optimisers":
        return dict.fromkeys(optimiser_names(), "")
    if kind == "metrics":
        return {name: _first_line(metric.__doc__) for name, metric in METRICS.items()}
    about = {}
    for name, path in shipped_configs().items():
        first = path.read_text().splitlines()[0]
        about[name] = first.removeprefix("#").strip() if first.startswith("#") else ""
    return about


def _about(loss: Loss, weight: tuple[float, str] | None) -> str:
    """What a loss reads, the weight that a shipped method gives it, and its paper."""
    weighted = f"; weight {weight[0]:g} in {weight[1]}" if weight else ""
    return f"{', '.join(loss.needs)}{weighted} [{loss.paper}]"


def _first_line(text: str | None) -> str:
    """A docstring's first line, without its markup."""
    line = text.strip().splitlines()[0] if text else ""
    return re.sub(r":\w+:`([^`]*)`|``([^`]*)``", r"\1\2", line)
