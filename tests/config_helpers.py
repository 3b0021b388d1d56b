"""A small experiment and a small method that tests vary, and which methods are of which kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gkd.config.layers import Layer
from gkd.config.resolve import Resolved, resolve
from gkd.methods.method import Method

Write = Callable[..., Path]  # name, content -> the experiment's file, by the fixture of tests/config

# The methods that compare logits class by class.
ON_LOGITS = {
    "born_again",
    "cat_kd",
    "ctkd",
    "mlkd",
    "ofa",
    "srrl",
    "srrl_map",
    "lwf",
    "icarl",
    "icarl_softmax",
    "eeil",
    "wa",
    "bic",
    "kd",
    "kd_dot",
    "kd_standardised",
    "nkd",
    "ttm",
    "wsld",
    "wttm",
    "dkd",
    "dist",
    "sakd",
    "stkd",
}
WITHOUT_TEACHER = {"student", "mixup", "cutmix", "protonet", "finetune", "joint", "replay", "der", "mutual"}
# Those whose student ends in its teacher's head, which wants the same classes.
IN_TEACHERS_HEAD = {"simkd"}
# Those that train two students, and step by step none.
ON_PEERS = {"mutual"}
# Those that train in episodes, and episodes that small data can fill.
IN_EPISODES = {"protonet", "refilled_episodic"}
SMALL_EPISODES = "method.stages.episodes.episodes={ways: 3, shots: 1, queries: 3, per_epoch: 12}"
# Those that train on images without labels.
ON_UNLABELLED = {"unlabelled_both", "unlabelled_first"}
# Those that read the teacher's vectors of the class names.
ON_NAMES = {"promptkd"}
# Those with a loss over the classes that the teacher does not have.
ON_NEW_CLASSES = {"finetune", "lwf", "icarl", "ucir", "podnet", "der"}

TINY: dict[str, Any] = {
    "task": {"name": "cross_task", "size": 5},
    "data": {"name": "digits"},
    "teacher": {"network": "resnet20"},
    "student": {"network": "resnet8"},
    "method": "refilled",
}


def tiny(*overrides: str, **sections: Any) -> Resolved:
    resolved = resolve("tiny", [Layer("experiment", {**TINY, **sections})])
    return resolved.with_overrides(overrides) if overrides else resolved


def two_stages(**second: Any) -> Method:
    stages = {name: {"epochs": 100, "terms": {"cross_entropy": {}}} for name in ("one", "two")}
    stages["two"].update(second)
    return Method.model_validate({"name": "m", "paper": "ours", "summary": "", "stages": stages})
