"""Names that other code gives to the weights of a network that gkd builds: the same tensors, called otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_TIMMS_PORTS = "timm/tf_efficientnet_"  # which pad as TensorFlow does, as EfficientNet-PyTorch does too
_BLOCK = re.compile(r"_blocks\.(\d+)\._(\w+)\.(.+)")
# EfficientNet-PyTorch's layers -> timm's: around the blocks; in every block; in one that expands; in one that does not.
_AROUND = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_ALWAYS = {"depthwise_conv": "conv_dw", "se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand"}
_EXPANDING = {"expand_conv": "conv_pw", "bn0": "bn1", "bn1": "bn2", "project_conv": "conv_pwl", "bn2": "bn3"}
_NARROW = {"bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}


def renamed(network: str, tensors: dict[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the network's names, where they have those of other code for all of it; else as they are.

    Args:
        network: its name in gkd.
        tensors: of a file.
        state: the network's state dict.
    """
    for theirs in (_from_torchdistill(tensors), _from_efficientnet_pytorch(network, tensors, state)):
        if theirs.keys() <= state.keys():
            return theirs
    return tensors


def _from_torchdistill(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchdistill's names of a wide residual network as gkd's."""
    names = {key: re.sub(r"^layer(\d)\.", r"block\1.layer.", key) for key in tensors}
    return {name.replace(".shortcut.0.", ".convShortcut."): tensors[key] for key, name in names.items()}


def _from_efficientnet_pytorch(
    network: str, tensors: dict[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The names of the packages efficientnet_pytorch and efficientnet_lite_pytorch as those of timm's ports.

    They count all blocks in one row, timm those of each stage.
    """
    if not network.startswith(_TIMMS_PORTS):
        return tensors
    stages = (key.split(".")[:3] for key in state if key.startswith("blocks."))
    places = [".".join(place) for place in dict.fromkeys(map(tuple, stages))]
    theirs = {}
    for key, tensor in tensors.items():
        layer, _, rest = key.partition(".")
        name = f"{_AROUND.get(layer, layer)}.{rest}"
        found = _BLOCK.fullmatch(key)
        if found and int(found[1]) < len(places):
            expands = f"_blocks.{found[1]}._expand_conv.weight" in tensors
            layers = {**_ALWAYS, **(_EXPANDING if expands else _NARROW)}
            name = f"{places[int(found[1])]}.{layers.get(found[2], found[2])}.{found[3]}"
        theirs[name] = tensor
    return theirs
