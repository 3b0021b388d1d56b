"""External networks, with random weights: of torchvision, timm, plug-ins, or a user's factory."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from gkd.core.errors import UserError, unknown
from gkd.core.plugins import entry_point_table, load_plugin
from gkd.core.user_code import FORM, call_factory, import_object, is_import_name
from gkd.models.clip import PREFIX, build_image_tower, check_clip_name, clip_config, unknown_in_library

GROUP = "gkd.networks"  # of entry points; each is called like a user's factory
# Printed by ``gkd ls networks`` beside the zoo's names.
PATTERNS = {
    "torchvision/NAME": "a classifier of torchvision.models, such as torchvision/resnet18",
    "open_clip/NAME": "an image tower of open_clip.list_models(), such as open_clip/ViT-B-32 (extra: clip)",
    "timm/NAME": "a network of timm.list_models(), such as timm/vit_tiny_patch16_224 (extra: timm)",
    FORM: "your own factory(num_classes=, in_channels=, **options) or class; the current folder is importable",
}
# Auxiliary classifiers would make the output a tuple, and unset init_weights warns.
TORCHVISION_DEFAULTS = {
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}


def is_external(name: str) -> bool:
    """Whether a network's name is one of the ``PATTERNS`` or that of a plug-in."""
    return is_of_library(name) or is_import_name(name) or name in entry_point_table(GROUP)


def is_of_library(name: str) -> bool:
    """Whether a network's name is of a library, which is known to build it without running code of the user's."""
    return name.startswith(("torchvision/", "timm/", PREFIX))


def check_external_name(name: str) -> None:
    """Raise a UserError for a name that torchvision or timm does not have; a user's module is not imported."""
    library, _, network = name.partition("/")
    if library == "timm":
        timm = _timm(name)
        if not timm.is_model(network):
            raise unknown_in_library(name, timm.list_models(), "timm.list_models()")
    elif library == "open_clip":
        check_clip_name(name)
    elif library == "torchvision":
        names = _torchvision_names()
        if network not in names:
            raise UserError(
                unknown("network", name, [f"torchvision/{model}" for model in names]), code="unknown-network"
            )


def build_external(name: str, *, num_classes: int, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    """Build the module behind a name, not yet tapped (``gkd.models.taps``).

    Args:
        name: one of the ``PATTERNS``, or that of a plug-in.
        num_classes: columns of the logits.
        in_channels: channels of the images.
        options: further keywords for the factory, such as ``img_size``.

    Raises:
        UserError: an unknown name, timm not installed, or arguments that the factory refuses.
    """
    check_external_name(name)
    library, _, network = name.partition("/")
    keywords: dict[str, Any]
    if library == "timm":
        keywords = {"pretrained": False, "num_classes": num_classes, "in_chans": in_channels}
        factory = _named(_timm(name).create_model, network)
        module = call_factory(factory, name=name, what="network", arguments=keywords, options=options)
    elif library == "torchvision":
        from torchvision.models import get_model

        more = {**TORCHVISION_DEFAULTS.get(network, {}), **options}
        keywords = {"num_classes": num_classes, "weights": None}
        module = call_factory(
            _named(get_model, network), name=name, what="network", arguments=keywords, options=more
        )
        if in_channels != 3:
            change_in_channels(module, in_channels, name)
    elif library == "open_clip":
        keywords = {"num_classes": num_classes}
        factory = _named(build_image_tower, name)
        module = call_factory(factory, name=name, what="network", arguments=keywords, options=options)
        if in_channels != 3:
            change_in_channels(module, in_channels, name)
    else:
        keywords = {"num_classes": num_classes, "in_channels": in_channels}
        if is_import_name(name):
            factory = import_object(name, what="network")
        else:
            factory = load_plugin(GROUP, name, what="network")
        # A network of fixed classes or channels has no keyword for them; trying it on an image tells whether it fits.
        module = call_factory(
            factory, name=name, what="network", arguments=keywords, options=options, only_taken=True
        )
    if not isinstance(module, nn.Module):
        raise UserError(
            f"The network {name!r} gave a {type(module).__name__}; it must return a torch.nn.Module.",
            code="not-a-network",
        )
    return module


def library_names(name: str) -> set[str]:
    """The names in the state dict of a library's default construction, where gkd's leaves branches out; else none."""
    library, _, network = name.partition("/")
    if library != "torchvision" or network not in TORCHVISION_DEFAULTS:
        return set()
    from torchvision.models import get_model

    with torch.device("meta"):
        return set(get_model(network, weights=None, aux_logits=True, init_weights=False).state_dict())


def size_option(name: str) -> str | None:
    """The option by which networks of a library are made for another image size; None where there is none."""
    return {"timm": "img_size", "torchvision": "image_size", "open_clip": "image_size"}.get(
        name.partition("/")[0]
    )


def made_for_size(name: str) -> int | None:
    """The side in pixels of the images for which a library makes a network; None where it states no fixed one."""
    library, _, network = name.partition("/")
    if library == "timm":
        config = _timm(name).models.get_pretrained_cfg(network)
        return int(config.input_size[-1]) if config is not None and config.fixed_input_size else None
    if library == "open_clip":
        size = clip_config(name)["vision_cfg"]["image_size"]
        return int(size) if isinstance(size, int) else None
    return 224 if library == "torchvision" and network.startswith("vit_") else None


def _named(create: Any, network: str) -> Any:
    return lambda **options: create(network, **options)


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError:
        raise UserError(
            f"The network {name!r} needs timm: pip install 'gkd-torch[timm]'", code="package-missing"
        ) from None
    module: ModuleType = timm
    return module


def _torchvision_names() -> list[str]:
    from torchvision import models

    return sorted(models.list_models(module=models))


def change_in_channels(module: nn.Module, in_channels: int, name: str) -> None:
    """Change the first convolution, which torchvision makes for three channels.

    For one channel the initial weights are summed over the channels, so that a grey image gives what the colour
    network gives on it in all three; for C channels they are repeated and scaled by 3 / C.
    """
    convolutions = (part for part in module.modules() if isinstance(part, nn.Conv2d))
    first = next(convolutions, None)
    if first is None or first.in_channels != 3 or first.groups != 1:
        raise UserError(
            f"The network {name!r} takes images of three channels alone; set data.channels=3, which repeats a grey "
            "image, or take another network.",
            code="other-channels",
        )
    weight = first.weight.detach()
    if in_channels == 1:
        weight = weight.sum(1, keepdim=True)
    else:
        weight = weight[:, torch.arange(in_channels) % 3] * 3 / in_channels
    first.in_channels = in_channels
    first.weight = nn.Parameter(weight)
