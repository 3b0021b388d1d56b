"""Metrics of a student: its predictions and embeddings, with confidence intervals."""

from gkd.metrics.by_name import METRICS, check_finite, check_metric_name, check_metrics, compute_metrics
from gkd.metrics.classification import (
    accuracy,
    agreement,
    class_accuracies,
    confusion_matrix,
    correctness,
    expected_calibration_error,
    macro_f1,
    mean_class_accuracy,
    negative_log_likelihood,
    separation,
    top5_accuracy,
)
from gkd.metrics.intervals import mean_std, paired_bootstrap, t_interval
from gkd.metrics.knn import knn_accuracy
from gkd.metrics.ncm import ncm_accuracy

__all__ = [
    "METRICS",
    "accuracy",
    "agreement",
    "check_finite",
    "check_metric_name",
    "check_metrics",
    "class_accuracies",
    "compute_metrics",
    "confusion_matrix",
    "correctness",
    "expected_calibration_error",
    "knn_accuracy",
    "macro_f1",
    "mean_class_accuracy",
    "mean_std",
    "ncm_accuracy",
    "negative_log_likelihood",
    "paired_bootstrap",
    "separation",
    "t_interval",
    "top5_accuracy",
]
