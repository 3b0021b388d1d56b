"""What `gkd ls` prints of gkd's own registries: ``python docs/names.py`` writes it to gkd/cli/names.json.

The command line reads the file, so that it lists what there is without importing it.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

from gkd.config.shipped import shipped_configs, shipped_methods, shipped_weights
from gkd.data import DATASETS
from gkd.data.augment.chain import augmentation_summaries
from gkd.losses import LOSSES, Loss
from gkd.metrics import METRICS
from gkd.models import network_summaries
from gkd.models.external import PATTERNS
from gkd.problems.task import TASKS, task_class

FILE = Path(__file__).resolve().parent.parent / "gkd" / "cli" / "names.json"


def names() -> dict[str, dict[str, str]]:
    """Kind -> name -> a line about it, of all kinds but optimisers, which are those of the torch that is installed."""
    weights = shipped_weights()
    networks = {name: _first_line(about) for name, about in network_summaries().items()}
    return {
        "methods": {name: f"{method.summary} [{method.paper}]" for name, method in shipped_methods().items()},
        "losses": {name: _about(loss, weights.get(name)) for name, loss in LOSSES.items()},
        "tasks": {
            name: _first_line(task_class(name).__doc__)
            for name, point in TASKS.items()
            if point.value.startswith("gkd.")
        },
        "networks": {**networks, **PATTERNS},
        "data": {name: _first_line(reader.__doc__) for name, reader in DATASETS.items()},
        "metrics": {name: _first_line(metric.__doc__) for name, metric in METRICS.items()},
        "augmentations": augmentation_summaries(),
        "configs": {name: _comment(path) for name, path in shipped_configs().items()},
    }


def content() -> str:
    """The file's content as the registries are now."""
    return json.dumps(names(), indent=1, ensure_ascii=False) + "\n"


def _about(loss: Loss, weight: tuple[float, str] | None) -> str:
    """What a loss reads, the weight that a shipped method gives it, and its paper."""
    weighted = f"; weight {weight[0]:g} in {weight[1]}" if weight else ""
    return f"{', '.join(loss.needs)}{weighted} [{loss.paper}]"


def _first_line(text: str | None) -> str:
    """A docstring's first line, without its markup."""
    line = inspect.cleandoc(text).splitlines()[0] if text else ""
    return re.sub(r":\w+:`([^`]*)`|``([^`]*)``", r"\1\2", line)


def _comment(path: Path) -> str:
    """The comment in a config's first line."""
    first = path.read_text().splitlines()[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


if __name__ == "__main__":
    FILE.write_text(content())
