"""Names and options of networks, and what is said where one is unknown."""

from typing import Any

import pytest
from torch import nn

from gkd.models import (
    NETWORKS,
    build_network,
    check_network_options,
    count_parameters,
    network_names,
    network_options,
    network_summaries,
)
from tests.refusals import refused


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        (
            "wrn_10_1",
            {"droput": 0.3},
            "unknown-option",
        ),
        ("conv4_64", {"size": 32}, "unknown-option"),
        ("vgg8", {"dropout": 0.3}, "unknown-option"),
        ("resnet8", {"depth": 14}, "unknown-option"),
        ("resnet8", {"last_relu": "half"}, "invalid-option"),
        (
            "resnet8",
            {"head": "cosin"},
            "unknown-head",
        ),
        ("wrn_10_1", {"dropout": "much"}, "invalid-option"),
        ("conv4_64", {"pool": "max"}, "invalid-option"),
    ],
)
def test_options_that_a_network_has_not_are_refused(name: str, options: dict[str, Any], code: str) -> None:
    with refused(code):
        build_network(name, num_classes=4, **options)
    with refused(code):
        check_network_options(name, options)


def test_options_reach_the_network() -> None:
    assert build_network("conv4_32", num_classes=4, image_size=28).embedding_dim == 32
    network = build_network("wrn_10_1", num_classes=4, dropout=0.3)
    assert network.get_submodule("block1.layer.0").dropout == 0.3
    check_network_options("wrn_10_1", {"dropout": 0.3})
    assert network_options(NETWORKS["wrn_16_2"]) == {"dropout": 0.0}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("resnet_20", "unknown-network"),
        ("WRN_40_2", "unknown-network"),
        ("wrn_16_0", "unknown-network"),
        ("wrn_16_02", "unknown-network"),
        ("wrn_17_2", "depth-out-of-range"),
        ("wrn_4_1", "depth-out-of-range"),
    ],
)
def test_an_unknown_name_says_what_is_allowed(name: str, code: str) -> None:
    with refused(code):
        build_network(name, num_classes=4)


@pytest.mark.parametrize(("num_classes", "in_channels"), [(0, 3), (10, 0)])
def test_counts_below_1_are_refused(num_classes: int, in_channels: int) -> None:
    with refused("size-out-of-range"):
        build_network("resnet8", num_classes=num_classes, in_channels=in_channels)


def test_names_for_display_end_with_the_wide_networks_pattern() -> None:
    *names, pattern = network_names()
    assert names == list(NETWORKS)
    assert {"resnet20", "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2", "wrn_28_10"} <= set(names)
    assert "6n + 4" in pattern
    assert list(network_summaries()) == network_names()
    assert all(summary.endswith(").") for summary in network_summaries().values())  # it names its paper


def test_frozen_parameters_count() -> None:
    assert count_parameters(nn.Linear(3, 2).requires_grad_(False)) == 8
