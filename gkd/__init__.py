"""gkd: generalised knowledge distillation across label spaces.

The names below are the public interface. Each is imported when it is first used, so ``import gkd`` is quick and needs
no torch. Losses are in ``gkd.losses``, networks in ``gkd.models``, data sets in ``gkd.data``, metrics in
``gkd.metrics``, incremental steps in ``gkd.incremental``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gkd.core.version import VERSION as __version__

if TYPE_CHECKING:
    from gkd import data as data
    from gkd import incremental as incremental
    from gkd import losses as losses
    from gkd import metrics as metrics
    from gkd import models as models
    from gkd.commands.run import run_config as run
    from gkd.core.batch import Batch
    from gkd.core.errors import UserError
    from gkd.core.labels import LabelRelation, LabelSpace
    from gkd.core.network import Features
    from gkd.data.episodes import draw_episodes
    from gkd.data.images import ImageSet
    from gkd.distill.distiller import Distiller
    from gkd.distill.teacher import Teacher
    from gkd.experiment.fit import Outcome, fit
    from gkd.few_shot.evaluate import evaluate_episodes
    from gkd.methods.terms import Term
    from gkd.models.load import load_network
    from gkd.models.taps import tap

__all__ = [
    "Batch",
    "Distiller",
    "Features",
    "ImageSet",
    "LabelRelation",
    "LabelSpace",
    "Outcome",
    "Teacher",
    "Term",
    "UserError",
    "__version__",
    "draw_episodes",
    "evaluate_episodes",
    "fit",
    "load_network",
    "run",
    "tap",
]

# Name -> module:attribute, imported on first use.
_PLACES = {
    "Batch": "gkd.core.batch:Batch",
    "Distiller": "gkd.distill.distiller:Distiller",
    "Features": "gkd.core.network:Features",
    "ImageSet": "gkd.data.images:ImageSet",
    "LabelRelation": "gkd.core.labels:LabelRelation",
    "LabelSpace": "gkd.core.labels:LabelSpace",
    "Outcome": "gkd.experiment.fit:Outcome",
    "Teacher": "gkd.distill.teacher:Teacher",
    "Term": "gkd.methods.terms:Term",
    "UserError": "gkd.core.errors:UserError",
    "draw_episodes": "gkd.data.episodes:draw_episodes",
    "evaluate_episodes": "gkd.few_shot.evaluate:evaluate_episodes",
    "fit": "gkd.experiment.fit:fit",
    "load_network": "gkd.models.load:load_network",
    "run": "gkd.commands.run:run_config",
    "tap": "gkd.models.taps:tap",
}
_SUBPACKAGES = ("data", "incremental", "losses", "metrics", "models")


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        module, _, attribute = _PLACES[name].partition(":")
        value = getattr(importlib.import_module(module), attribute)
        globals()[name] = value
        return value
    if name in _SUBPACKAGES:
        return importlib.import_module(f"gkd.{name}")
    raise AttributeError(f"module 'gkd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBPACKAGES])
