"""A small experiment that tests of configs vary."""

from typing import Any

from gkd.config import Resolved, resolve

# The methods that compare logits class by class.
ON_LOGITS = {"kd", "kd_standardised", "dkd", "dist", "sakd", "stkd", "lwf", "icarl", "icarl_softmax"}
# Those with a loss over the classes that the teacher does not have.
ON_NEW_CLASSES = {"lwf", "icarl"}
WITHOUT_TEACHER = {"student", "mixup"}

TINY: dict[str, Any] = {
    "task": {"name": "cross_task", "size": 5},
    "data": {"name": "digits"},
    "teacher": {"network": "resnet20"},
    "student": {"network": "resnet8"},
    "method": "refilled",
}


def tiny(*overrides: str, **sections: Any) -> Resolved:
    resolved = resolve("tiny", [("experiment", {**TINY, **sections})])
    return resolved.with_overrides(overrides) if overrides else resolved
