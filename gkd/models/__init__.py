"""Networks by the names the field uses."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from torch import nn

from gkd.core.errors import UserError, unknown
from gkd.core.plugins import entry_point_table, plugin
from gkd.core.user_code import FORM
from gkd.models.dropblock import DropBlock
from gkd.models.expanding import (
    EXTRACTORS,
    AuxiliaryHead,
    ExpandedNetwork,
    check_expandable,
    expand,
    expanded,
    frozen_parameters,
    newest_dim,
    newest_part,
    num_extractors,
)
from gkd.models.external import GROUP, PATTERNS, build_external, check_external_name, is_external
from gkd.models.few_shot_backbones import Conv4, ResNet12
from gkd.models.heads import (
    CosineHead,
    HeadKind,
    ProxyHead,
    check_head_kind,
    grow,
    grow_head,
    put_head,
    replace_head,
)
from gkd.models.mobilenet import MobileNet, MobileNetV2
from gkd.models.projected import PROJECTOR, ProjectedNetwork, Projection, checked_projection, projected
from gkd.models.resnet import RESNETS, ResNet
from gkd.models.resnet_imagenet import ImageNetResNet
from gkd.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from gkd.models.taps import tapped
from gkd.models.vgg import VGG
from gkd.models.wrn import WideResNet

__all__ = [
    "EXTRACTORS",
    "NETWORKS",
    "PROJECTOR",
    "VGG",
    "AuxiliaryHead",
    "Conv4",
    "CosineHead",
    "DropBlock",
    "ExpandedNetwork",
    "ImageNetResNet",
    "MobileNet",
    "MobileNetV2",
    "ProjectedNetwork",
    "Projection",
    "ProxyHead",
    "ResNet",
    "ResNet12",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "WideResNet",
    "build_network",
    "check_expandable",
    "check_network_name",
    "check_network_options",
    "checked_projection",
    "count_parameters",
    "expand",
    "expanded",
    "frozen_parameters",
    "grow",
    "grow_head",
    "network_names",
    "network_options",
    "network_summaries",
    "newest_dim",
    "newest_part",
    "num_extractors",
    "projected",
    "put_head",
    "replace_head",
    "takes_option",
]

# The wide networks that papers use; build_network takes every other depth and width as well.
_COMMON_WRNS = ((16, 1), (16, 2), (40, 1), (40, 2), (28, 10))
_WRN_NAME = re.compile(r"wrn_([1-9][0-9]*)_([1-9][0-9]*)")
_WRN_PATTERN = "wrn_{depth}_{width} with depth = 6n + 4"

# name -> a class with its depth and widths bound; it takes num_classes, in_channels and options by keyword
NETWORKS: dict[str, partial[Any]] = {
    **{name: partial(ResNet, depth, widths) for name, (depth, widths) in RESNETS.items()},
    **{f"wrn_{depth}_{width}": partial(WideResNet, depth, width) for depth, width in _COMMON_WRNS},
    **{f"ResNet{depth}": partial(ImageNetResNet, depth) for depth in (18, 34, 50)},
    **{f"vgg{depth}": partial(VGG, depth) for depth in (8, 11, 13, 16, 19)},
    "MobileNetV2": partial(MobileNetV2, 0.5),
    "MobileNetV2_1_0": partial(MobileNetV2, 1.0),
    "ShuffleV1": partial(ShuffleNetV1),
    "ShuffleV2": partial(ShuffleNetV2),
    "mobilenet_1_0": partial(MobileNet, 1.0),
    "mobilenet_0_75": partial(MobileNet, 0.75),
    "mobilenet_0_5": partial(MobileNet, 0.5),
    "mobilenet_0_25": partial(MobileNet, 0.25),
    "conv4_64": partial(Conv4, 64),
    "conv4_32": partial(Conv4, 32),
    "resnet12_wide": partial(ResNet12, (64, 160, 320, 640)),
    "resnet12_narrow": partial(ResNet12, (64, 128, 256, 512)),
}


def network_names() -> list[str]:
    """The names for display; the last entry is the pattern of the wide networks' names."""
    return [*NETWORKS, _WRN_PATTERN]


def network_summaries() -> dict[str, str]:
    """Each of ``network_names`` with the first line of its class's docstring."""
    classes = {name: network.func for name, network in NETWORKS.items()} | {_WRN_PATTERN: WideResNet}
    return {name: (inspect.getdoc(cls) or "").splitlines()[0] for name, cls in classes.items()}


def build_network(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    taps: Mapping[str, Any] | None = None,
    head: HeadKind = "linear",
    extractors: int = 1,
    projector: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """A freshly initialised network that satisfies ``gkd.core.network.Network``.

    Args:
        name: a key of ``NETWORKS``, ``wrn_{depth}_{width}`` with depth = 6n + 4, or an external network
            (``gkd.models.external.PATTERNS``, or the name of a plug-in: entry-point group ``gkd.networks``).
        num_classes: C, the columns of the logits.
        in_channels: channels of the images: 3 for colour, 1 for grey.
        taps: the modules to tap instead of the defaults (``gkd.models.taps.tapped``).
        head: ``linear`` (the network's default), ``cosine`` or ``proxy`` (``gkd.models.heads``).
        extractors: how many such networks stand side by side under one linear head, all but the last frozen
            (``gkd.models.expanding``); above 1 to load the weights of an expanded network.
        projector: ``{channels, size, factor}`` of a bottleneck that leads the last map to another network's
            (``gkd.models.projected``); the head is behind it.
        options: for gkd's networks keyword parameters of the class, such as ``dropout`` of a wide residual
            network; for others further keywords of their factory.

    Raises:
        UserError: an unknown name, option or head, a wide network of another depth, a count below 1, a wrong tap, or a
            value that the network refuses.
    """
    if num_classes < 1 or in_channels < 1:
        raise UserError(
            "A network needs num_classes and in_channels of 1 or more; "
            f"{num_classes} and {in_channels} were given.",
            code="size-out-of-range",
        )
    if projector is not None:
        build = partial(
            build_network, name, num_classes=num_classes, in_channels=in_channels, taps=taps, head=head
        )
        return projected(build(extractors=extractors, **options), projector)
    _check_extractors(extractors)
    if extractors > 1:
        build = partial(
            build_network, name, num_classes=num_classes, in_channels=in_channels, taps=taps, head=head
        )
        return expanded([build(**options) for _ in range(extractors)])
    check_network_name(name)
    if is_external(name):
        module = build_external(name, num_classes=num_classes, in_channels=in_channels, options=options)
    else:
        factory = _factory(name)
        options = _checked_options(name, factory, options)
        module = factory(num_classes=num_classes, in_channels=in_channels, **options)
    network: nn.Module = tapped(module, name=name, num_classes=num_classes, taps=taps)
    if head != "linear":
        replace_head(network, head)
    return network


def check_network_name(name: str) -> None:
    """Raise a UserError for an unknown name or a wide network of a depth that is not 6n + 4."""
    if name in entry_point_table(GROUP):
        plugin(GROUP, name, what="network", ours=NETWORKS)  # refuses a name that gkd has too
    elif is_external(name):
        check_external_name(name)
    else:
        _factory(name)


def check_network_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise a UserError for an unknown name, an option that the network lacks, or a wrong type."""
    options = dict(options)
    check_head_kind(options.pop("head", "linear"))
    _check_extractors(options.pop(EXTRACTORS, 1))
    if options.get(PROJECTOR) is not None:
        checked_projection(options[PROJECTOR])
    options.pop(PROJECTOR, None)
    _checked_options(name, _factory(name), options)


def _check_extractors(extractors: Any) -> None:
    if type(extractors) is not int or extractors < 1:
        raise UserError(
            f"A network has 1 extractor or more, a whole number; {extractors!r} was given.",
            code="extractors-out-of-range",
        )


def _factory(name: str) -> partial[Any]:
    """The class behind a name of gkd's networks; it takes ``num_classes``, ``in_channels`` and options."""
    if name in NETWORKS:
        return NETWORKS[name]
    match = _WRN_NAME.fullmatch(name)
    if match is None:
        module, _, factory = name.rpartition(".")
        if factory[:1].isupper() and module.replace(".", "").isidentifier():
            raise UserError(
                f"Unknown network {name!r}. Did you mean {module}:{factory}? A network of your own is {FORM}.",
                code="unknown-network",
            )
        if name.startswith(("hf-hub:", "hf_hub:", "hf://")):
            raise UserError(
                f"Unknown network {name!r}, which is a place on a hub. Give the network's own name, such as "
                "timm/resnet18, and its weights as checkpoint: hf://OWNER/NAME/FILE, or pretrained: true.",
                code="unknown-network",
            )
        if factory == "py":
            raise UserError(
                f"Unknown network {name!r}, which names a file. A network of your own is {FORM}, such as "
                f"{module}:Net.",
                code="unknown-network",
            )
        raise UserError(
            unknown("network", name, [*network_names(), *PATTERNS, *entry_point_table(GROUP)]),
            code="unknown-network",
        )
    depth, width = int(match[1]), int(match[2])
    if depth < 10 or (depth - 4) % 6:
        below = max(10, depth - (depth - 4) % 6)
        raise UserError(
            f"Network {name!r} has depth {depth}; a wide residual network has 6n + 4 layers, n of 1 or more. "
            f"Use wrn_{below}_{width} or wrn_{below + 6}_{width}.",
            code="depth-out-of-range",
        )
    return partial(WideResNet, depth, width)


def _checked_options(name: str, factory: partial[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, converted to the types of the class's annotations."""
    if not options:
        return {}
    defaults = network_options(factory)
    types = get_type_hints(factory.func.__init__)
    checked = {}
    for option, value in options.items():
        if option not in defaults:
            reason = unknown("option", option, [*defaults, "head"])
            raise UserError(f"Network {name!r}: {reason[0].lower()}{reason[1:]}", code="unknown-option")
        try:
            checked[option] = TypeAdapter(types[option]).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UserError(
                f"Option {option!r} of network {name!r} is {value!r}: {reason}.", code="invalid-option"
            ) from None
    return checked


def takes_option(name: str, option: str) -> bool:
    """Whether a network has an option; an external network is only known to have ``head``."""
    return option == "head" or (not is_external(name) and option in network_options(_factory(name)))


def network_options(factory: partial[Any]) -> dict[str, Any]:
    """The options that a value of ``NETWORKS`` takes, with their defaults."""
    parameters = inspect.signature(factory).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in ("num_classes", "in_channels")
    }


def count_parameters(module: nn.Module) -> int:
    """The number of parameters, frozen ones included; buffers do not count."""
    return sum(parameter.numel() for parameter in module.parameters())
