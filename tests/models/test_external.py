"""Networks from elsewhere: by name, or a factory of one's own, under their own library's weight names."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from gkd.core.tapped import TappedNetwork, output_shapes
from gkd.distill.distiller import Distiller
from gkd.methods.terms import Term
from gkd.models import build_network
from tests.network_helpers import VIT
from tests.refusals import refused


@pytest.fixture
def vit() -> TappedNetwork:
    torch.manual_seed(0)
    return build_network("timm/vit_tiny_patch16_224", num_classes=5, in_channels=1, **VIT).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_token_of_the_map_is_the_token_of_its_patch(vit: TappedNetwork, images: Tensor) -> None:
    tokens: list[Tensor] = []
    vit.module.get_submodule("blocks.7").register_forward_hook(lambda *args: tokens.append(args[-1]))
    with torch.no_grad():
        deepest = vit.features(images).maps[-1]
    assert tokens[0].shape == (2, 17, 24)  # the class token stands first
    assert torch.equal(deepest[1, :, 2, 3], tokens[0][1, 1 + 2 * 4 + 3])


def test_the_embedding_is_what_the_head_reads(vit: TappedNetwork, images: Tensor) -> None:
    with torch.no_grad():
        features = vit.features(images)
        assert torch.equal(vit.head(features.embedding), features.logits)
        assert torch.equal(vit(images), features.logits)


@pytest.mark.parametrize("name", ["timm/resnet10t", "timm/vit_tiny_patch16_224"])
def test_weights_keep_the_names_of_their_library(name: str) -> None:
    options = VIT if "vit" in name else {}
    source = timm.create_model(name.removeprefix("timm/"), num_classes=5, in_chans=1, **options)
    network = build_network(name, num_classes=5, in_channels=1, **options)
    assert network.state_dict().keys() == source.state_dict().keys()
    network.load_state_dict(source.state_dict())
    assert all(torch.equal(network.state_dict()[k], tensor) for k, tensor in source.state_dict().items())
    distiller = Distiller(network, None, {"ce": Term(loss="cross_entropy", weight=1.0)})
    inside = distiller.state_dict()
    assert inside.keys() == {f"student.{key}" for key in source.state_dict()}
    distiller.load_state_dict({key: torch.zeros_like(tensor) for key, tensor in inside.items()})
    assert not any(tensor.any() for tensor in network.state_dict().values())
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict({})


def test_a_part_to_train_has_the_name_that_the_weights_have(vit: TappedNetwork) -> None:
    distiller = Distiller(vit, None, {"ce": Term(loss="cross_entropy", weight=1.0)})
    (group,) = distiller.param_groups(["blocks.7"])
    assert len(group["params"]) == len(list(vit.module.get_submodule("blocks.7").parameters()))


def test_a_copy_in_channels_last_under_autocast_gives_the_same(vit: TappedNetwork, images: Tensor) -> None:
    with torch.no_grad():
        expected = vit.features(images)
        twin = copy.deepcopy(vit).to(memory_format=torch.channels_last)
        for parameter in vit.parameters():
            parameter.zero_()  # a copy that taps the original would show it
        found = twin.features(images.contiguous(memory_format=torch.channels_last))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = twin.features(images)
    torch.testing.assert_close(found.maps, expected.maps)
    torch.testing.assert_close(rough.maps[-1].float(), expected.maps[-1], atol=0.1, rtol=0.1)
    assert rough.logits.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/mobilenet_v3_small"])
def test_a_grey_image_is_the_same_image_in_three_channels(name: str) -> None:
    nets = []
    for channels in (1, 3):
        torch.manual_seed(0)
        nets.append(build_network(name, num_classes=2, in_channels=channels).eval())
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(nets[0](image), nets[1](image.repeat(1, 3, 1, 1)), atol=1e-4, rtol=1e-4)
    assert build_network(name, num_classes=2, in_channels=4)(torch.randn(2, 4, 32, 32)).shape == (
        2,
        2,
    )


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("timm/vit_tiny_patch_224", {}, "unknown-network"),
        ("torchvision/resnet81", {}, "unknown-network"),
        ("torchvision/resnet18", {"widht": 2}, "unknown-option"),
        ("timm/resnet10t", {"widht": 2}, "unknown-option"),
        ("timm/resnet10t", {"pretrained": True}, "option-reserved"),
        ("resnet8", {"widht": 2}, "unknown-option"),
        ("torchvision/squeezenet1_0", {}, "no-head"),
    ],
)
def test_what_a_library_does_not_have_is_a_sentence(name: str, options: dict[str, Any], code: str) -> None:
    with refused(code):
        build_network(name, num_classes=5, **options)


@pytest.mark.parametrize(
    ("name", "options", "shape", "code"),
    [
        ("timm/vit_tiny_patch16_224", VIT, (1, 8, 8), "images-not-taken"),
        ("timm/resnet10t", {}, (3, 32, 32), "images-not-taken"),
        ("torchvision/alexnet", {}, (1, 16, 16), "images-not-taken"),
    ],
)
def test_images_that_a_network_cannot_take_are_a_sentence(
    name: str, options: dict[str, Any], shape: tuple[int, ...], code: str
) -> None:
    with refused(code):
        output_shapes(build_network(name, num_classes=5, in_channels=1, **options), shape)


def test_without_timm_the_sentence_has_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with refused("package-missing"):
        build_network("timm/resnet18", num_classes=5)


OWN = """
from torch import nn
from gkd.models import build_network

def plain(num_classes, in_channels, width=4):
    hidden = nn.LazyLinear(width)
    return nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.Flatten(), hidden, nn.Linear(width, num_classes))

def ours(num_classes, in_channels):
    return build_network("resnet8", num_classes=num_classes, in_channels=in_channels)

def deaf(num_classes, in_channels):
    return build_network("resnet8", num_classes=3, in_channels=in_channels)

def nothing(num_classes, in_channels):
    return None

class Grey(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    (tmp_path / "own_networks.py").write_text(OWN)
    return "own_networks"


def test_a_module_of_ones_own_has_logits_and_embedding(own: str) -> None:
    network = build_network(f"{own}:plain", num_classes=5, in_channels=1, width=6)
    features = network.features(torch.randn(2, 1, 8, 8))
    assert features.logits.shape == (2, 5)
    assert features.embedding.shape == (2, 6)
    assert features.maps == ()
    assert (
        build_network(f"{own}:ours", num_classes=5).__class__.__name__ == "ResNet"
    )  # a gkd network as it is
    grey = build_network(f"{own}:Grey", num_classes=5, in_channels=1)  # which takes no in_channels
    assert grey(torch.randn(2, 1, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "taps", "code"),
    [
        ("deaf", {}, "other-classes"),
        ("nothing", {}, "not-a-network"),
        ("plain", {"head": "2"}, "other-classes"),
    ],
)
def test_a_factory_that_gives_something_else_is_refused(
    own: str, name: str, taps: dict[str, Any], code: str
) -> None:
    with refused(code):
        build_network(f"{own}:{name}", num_classes=5, taps=taps)
