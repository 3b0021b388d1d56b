"""What no run can use, and is not offered."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gkd.cli.ls import own_names
from gkd.methods.optimiser_choices import NOT_TAKEN


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_what_is_left_out_cannot_make_a_step_on_a_dense_gradient_alone(name: str) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    more: dict[str, Any] = {"defaults": {}} if name == "Optimizer" else {}
    optimiser = getattr(torch.optim, name)([parameter], **more)
    with pytest.raises((NotImplementedError, TypeError, RuntimeError)):
        optimiser.step()


def test_they_are_not_offered() -> None:
    offered = own_names("optimisers")
    assert "RAdam" in offered
    assert not set(NOT_TAKEN) & set(offered)
