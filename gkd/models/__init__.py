"""Networks by the names the field uses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from gkd.errors import UserError, unknown
from gkd.imports import call_factory
from gkd.models.external import PATTERNS, build_external, check_external_name, is_external
from gkd.models.resnet import RESNETS, ResNet
from gkd.models.taps import tapped
from gkd.models.wrn import WideResNet

__all__ = ["NETWORKS", "ResNet", "WideResNet", "build_network", "count_parameters", "network_names"]

# The wide networks that papers use; build_network takes every other depth and width as well.
_COMMON_WRNS = ((16, 1), (16, 2), (40, 1), (40, 2), (28, 10))
_WRN_NAME = re.compile(r"wrn_([1-9][0-9]*)_([1-9][0-9]*)")
_WRN_PATTERN = "wrn_{depth}_{width} with depth = 6n + 4"

# name -> a function of (num_classes, in_channels), both by keyword
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **{name: partial(ResNet, depth, widths) for name, (depth, widths) in RESNETS.items()},
    **{f"wrn_{depth}_{width}": partial(WideResNet, depth, width) for depth, width in _COMMON_WRNS},
}


def network_names() -> list[str]:
    """The names for display; the last entry is the pattern of the wide networks' names."""
    return [*NETWORKS, _WRN_PATTERN]


def build_network(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    taps: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """A freshly initialised network that satisfies ``gkd.features.Network``.

    Args:
        name: a key of ``NETWORKS``, ``wrn_{depth}_{width}`` with depth = 6n + 4, or a network from elsewhere
            (``gkd.models.external.PATTERNS``).
        num_classes: C, the columns of the logits.
        in_channels: channels of the images: 3 for colour, 1 for grey.
        taps: the modules to tap instead of the defaults (``gkd.models.taps.tapped``).
        options: further keywords for what builds the network.

    Raises:
        UserError: an unknown name or option, a wide network of another depth, a wrong tap, or a count below 1.
    """
    if num_classes < 1 or in_channels < 1:
        raise UserError(
            "A network needs num_classes and in_channels of 1 or more; "
            f"{num_classes} and {in_channels} were given."
        )
    if is_external(name):
        module = build_external(name, num_classes=num_classes, in_channels=in_channels, options=options)
    else:
        module = _from_the_zoo(name, num_classes, in_channels, options)
    network: nn.Module = tapped(module, name=name, num_classes=num_classes, taps=taps)
    return network


def _from_the_zoo(name: str, num_classes: int, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    check_network_name(name)
    given = {"num_classes": num_classes, "in_channels": in_channels}
    if name in NETWORKS:
        factory = NETWORKS[name]
    else:
        _, depth, width = name.split("_")
        factory = partial(WideResNet, int(depth), int(width))
    network: nn.Module = call_factory(factory, name=name, what="network", given=given, options=options)
    return network


def check_network_name(name: str) -> None:
    """Raises a UserError for an unknown name or a wide network of a depth that is not 6n + 4."""
    if is_external(name):
        check_external_name(name)
        return
    if name in NETWORKS:
        return
    match = _WRN_NAME.fullmatch(name)
    if match is None:
        raise UserError(unknown("network", name, [*network_names(), *PATTERNS]))
    depth, width = int(match[1]), int(match[2])
    if depth < 10 or (depth - 4) % 6:
        below = max(10, depth - (depth - 4) % 6)
        raise UserError(
            f"Network {name!r} has depth {depth}; a wide residual network has 6n + 4 layers, n of 1 or more. "
            f"Use wrn_{below}_{width} or wrn_{below + 6}_{width}."
        )


def count_parameters(module: nn.Module) -> int:
    """The number of parameters, frozen ones included; buffers do not count."""
    return sum(parameter.numel() for parameter in module.parameters())
