"""The mode of a network that is looked at for a while."""

from __future__ import annotations

import pytest
from torch import nn

from gkd.core.network import in_eval_mode


def fail_in_eval_mode(network: nn.Module) -> None:
    with in_eval_mode(network):
        assert not any(part.training for part in network.modules())
        raise KeyError


def test_every_part_returns_to_its_own_mode_also_after_an_error() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout()))
    network[0].eval()  # frozen in a network that trains
    with pytest.raises(KeyError):
        fail_in_eval_mode(network)
    assert [part.training for part in network.modules()] == [True, False, True, True]
