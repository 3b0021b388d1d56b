"""How a student is judged."""

from gkd.metrics.classification import (
    accuracy,
    agreement,
    correctness,
    expected_calibration_error,
    negative_log_likelihood,
    separation,
)
from gkd.metrics.intervals import mean_std, paired_bootstrap, t_interval
from gkd.metrics.ncm import ncm_accuracy

__all__ = [
    "accuracy",
    "agreement",
    "correctness",
    "expected_calibration_error",
    "mean_std",
    "ncm_accuracy",
    "negative_log_likelihood",
    "paired_bootstrap",
    "separation",
    "t_interval",
]
