"""Metrics that an experiment asks for by name (``evaluate.metrics``): gkd's, plug-ins, and a user's own.

A metric is a function of logits ``[N, C]``, labels ``[N]`` and the label relation (None where the run has no
teacher) that gives one finite number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelRelation
from gkd.core.plugins import entry_point_table, load_plugin, plugin
from gkd.core.user_code import FORM, import_object, is_import_name, told
from gkd.metrics.classification import (
    expected_calibration_error,
    macro_f1,
    mean_class_accuracy,
    negative_log_likelihood,
    top5_accuracy,
)

GROUP = "gkd.metrics"
_WHAT = "metric"

Metric = Callable[[Tensor, Tensor, LabelRelation | None], Any]


def _of_answers(function: Callable[[Tensor, Tensor], float]) -> Metric:
    """A metric that does not read the relation."""

    @wraps(function)
    def metric(logits: Tensor, labels: Tensor, relation: LabelRelation | None) -> float:
        return function(logits, labels)

    return metric


METRICS: dict[str, Metric] = {
    function.__name__: _of_answers(function)
    for function in (
        expected_calibration_error,
        macro_f1,
        mean_class_accuracy,
        negative_log_likelihood,
        top5_accuracy,
    )
}


def check_metric_name(name: str) -> None:
    """Raise a UserError for an unknown name; import nothing."""
    if name in entry_point_table(GROUP):
        plugin(GROUP, name, what=_WHAT, ours=METRICS)  # refuses a plug-in of one of gkd's own names
    elif name not in METRICS and not is_import_name(name):
        raise UserError(
            f"{unknown(_WHAT, name, [*METRICS, *entry_point_table(GROUP)])} Or one of your own: {FORM}.",
            code="unknown-metric",
        )


def compute_metrics(
    names: Sequence[str], logits: Tensor, labels: Tensor, relation: LabelRelation | None
) -> dict[str, float]:
    """The value of each metric, in the order of the names.

    Args:
        names: keys of ``METRICS``, names of plug-ins, or ``pkg.module:name``.
        logits: ``[N, C]``.
        labels: ``[N]``, columns of the logits.
        relation: teacher against student classes; None where the run has no teacher.

    Raises:
        UserError: a metric that cannot be imported, raises, or gives no finite number.
    """
    return {name: _value(name, logits, labels, relation) for name in names}


def check_metrics(names: Sequence[str], num_classes: int, relation: LabelRelation | None) -> None:
    """Try metrics on two random images a class, before anything is trained; errors as of :func:`compute_metrics`."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_classes).repeat(2)
    logits = torch.randn(len(labels), num_classes, generator=generator)
    compute_metrics(names, logits, labels, relation)


def check_finite(name: str, number: float, of: str) -> None:
    """Raise a UserError where a metric ``of`` something is not a finite number."""
    if not math.isfinite(number):
        raise UserError(
            f"The metric {name!r} gives {number} on {of}, where a finite number is expected.",
            code="metric-not-finite",
        )


def _metric(name: str) -> Metric:
    check_metric_name(name)
    if is_import_name(name):
        return import_object(name, what=_WHAT)
    if name in entry_point_table(GROUP):
        plugged: Metric = load_plugin(GROUP, name, what=_WHAT)
        return plugged
    return METRICS[name]


def _value(name: str, logits: Tensor, labels: Tensor, relation: LabelRelation | None) -> float:
    metric = _metric(name)
    shapes = f"logits {list(logits.shape)} and labels {list(labels.shape)}"
    try:
        value = metric(logits.clone(), labels.clone(), relation)
        number = float(value)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The metric {name!r} fails on {shapes}: {told(error)}", code="metric-fails"
        ) from error
    check_finite(name, number, shapes)
    return number
