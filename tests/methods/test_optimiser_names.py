"""Optimisers by name: torch's, plug-ins, a user's own; what they do not take is refused before training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from gkd.methods.optimiser import Optimiser
from gkd.methods.optimiser_names import optimiser_names
from tests.refusals import refused

MODULE = """
import torch

def make(params, lr, weight_decay, nesterov=True):
    return torch.optim.NAdam(params, lr=lr, weight_decay=weight_decay)

class WithObject(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight]["made"] = object

class Failing(torch.optim.SGD):
    def step(self, closure=None):
        raise RuntimeError("no dense gradients")

def own_groups(params, lr, weight_decay):
    return torch.optim.SGD([weight for group in params for weight in group["params"]], lr=lr)

def nothing(params, lr, weight_decay):
    return 3
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_optimisers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "made_optimisers", raising=False)


def groups() -> list[dict[str, Any]]:
    slow, fast = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2, 2))
    return [
        {"params": [slow], "lr_scale": 0.1, "decay_scale": 0.0},
        {"params": [fast], "lr_scale": 1.0, "decay_scale": 2.0},
    ]


@pytest.mark.parametrize(
    ("name", "options", "made"),
    [
        ("SGD", {"dampening": 0.0}, torch.optim.SGD),
        ("AdamW", {"amsgrad": True}, torch.optim.AdamW),
        ("RMSprop", {"alpha": 0.9}, torch.optim.RMSprop),
        ("made_optimisers:make", {"nesterov": False}, torch.optim.NAdam),
    ],
)
def test_every_optimiser_scales_each_group(name: str, options: dict[str, Any], made: type) -> None:
    section = Optimiser(name=name, options=options, lr=0.2, weight_decay=0.01, momentum=0.8, betas=(0.8, 0.9))
    section.check()
    built = section.build(groups())
    assert type(built) is made
    assert [group["weight_decay"] for group in built.param_groups] == [0.0, 0.02]
    assert section.set_lr(built, 0.5, 10) == pytest.approx(0.1)
    assert [group["lr"] for group in built.param_groups] == pytest.approx([0.01, 0.1])
    if name in ("SGD", "AdamW"):  # which read the keys of sgd and adamw
        assert built.param_groups[0].get("momentum", 0.8) == 0.8
        assert built.param_groups[0].get("betas", (0.8, 0.9)) == (0.8, 0.9)
        assert all(built.param_groups[0][key] == value for key, value in options.items())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "AdamV"}, "Unknown optimiser 'AdamV'. Did you mean 'Adam"),
        (
            {"name": "AdamW", "options": {"amsgrat": True}},
            "Did you mean 'amsgrad'.* Allowed: amsgrad, capturable",
        ),
        ({"name": "SGD", "options": {"momentum": 0.5}}, "write optimiser.momentum"),
        ({"name": "RMSprop", "options": {"lr": 0.5}}, "write optimiser.lr"),
        ({"name": "Rprop"}, "has no weight decay.*set optimiser.weight_decay=0"),
        ({"name": "LBFGS", "weight_decay": 0}, "evaluates the loss several times a step"),
        ({"name": "Optimizer"}, "Unknown optimiser"),
    ],
)
def test_a_config_is_refused_by_the_optimisers_own_signature(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Optimiser.model_validate(section)


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("absent_module:make", {}, "module-missing"),
        ("made_optimisers:make", {"beta": 1}, "unknown-option"),
        ("made_optimisers:WithObject", {}, "state-unsavable"),
        ("made_optimisers:Failing", {}, "step-failed"),
        ("made_optimisers:own_groups", {}, "other-parameter-groups"),
        ("made_optimisers:nothing", {}, "not-an-optimiser"),
        ("RMSprop", {"alpha": -1}, "build-failed"),
    ],
)
def test_a_trial_before_training_refuses_in_one_sentence(
    name: str, options: dict[str, Any], code: str
) -> None:
    with refused(code) as caught:
        Optimiser(name=name, options=options).check()
    assert "\n" not in str(caught.value)


def test_the_names_are_torchs() -> None:
    assert {"sgd", "adamw", "SGD", "AdamW", "RMSprop"} <= set(optimiser_names())
    assert "lr_scheduler" not in optimiser_names()
