"""Where a network from elsewhere is tapped and cut: by its family, by what the config says, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from gkd.core.network import Network
from gkd.core.tapped import Tap, as_staged, output_shapes
from gkd.models import build_network
from gkd.models.cut_check import check_stages
from gkd.models.taps import default_maps, tap, tapped
from tests.network_helpers import VIT
from tests.refusals import refused

SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (1, 1, 1), "num_heads": (1, 1, 1)}

# name, options, image size -> the maps of one image, shallow to deep
FAMILIES = [
    ("torchvision/resnet18", {}, 32, [(64, 16), (64, 8), (128, 4), (256, 2), (512, 1)]),
    ("torchvision/mobilenet_v2", {}, 64, [(16, 32), (24, 16), (32, 8), (96, 4), (1280, 2)]),
    ("torchvision/shufflenet_v2_x0_5", {}, 64, [(24, 32), (48, 8), (96, 4), (192, 2), (1024, 2)]),
    ("torchvision/regnet_y_400mf", {}, 64, [(32, 32), (48, 16), (104, 8), (208, 4), (440, 2)]),
    ("torchvision/googlenet", {}, 64, [(480, 8), (832, 4), (1024, 2)]),
    ("torchvision/densenet121", {}, 64, [(64, 32), (256, 16), (512, 8), (1024, 4), (1024, 2)]),
    ("torchvision/convnext_tiny", {}, 64, [(96, 16), (192, 8), (384, 4), (768, 2)]),
    ("torchvision/swin_t", {}, 64, [(96, 16), (192, 8), (384, 4), (768, 2)]),
    ("timm/resnet10t", {}, 64, [(64, 32), (64, 16), (128, 8), (256, 4), (512, 2)]),
    ("timm/vit_tiny_patch16_224", VIT, 16, [(24, 4)] * 4),
    ("timm/deit_tiny_distilled_patch16_224", VIT, 16, [(24, 4)] * 4),
    ("timm/vit_small_patch14_reg4_dinov2", {**VIT, "patch_size": 8}, 16, [(24, 2)] * 4),
    ("timm/swin_tiny_patch4_window7_224", SWIN, 32, [(8, 8), (16, 4), (32, 2)]),
    ("timm/convnext_atto", {}, 64, [(40, 16), (80, 8), (160, 4), (320, 2)]),
    ("timm/mobilenetv3_small_050", {}, 64, [(16, 32), (8, 16), (16, 8), (24, 4), (288, 2)]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "size", "maps"), FAMILIES, ids=[row[0] for row in FAMILIES])
def test_a_family_is_tapped_at_its_stages(
    name: str, options: dict[str, Any], size: int, maps: list[tuple[int, int]]
) -> None:
    network = build_network(name, num_classes=5, in_channels=1, **options)
    assert isinstance(network, Network)
    shapes = output_shapes(network, (1, size, size))
    assert shapes.maps == tuple((width, side, side) for width, side in maps)
    assert shapes.logits == (5,)
    assert shapes.embedding == (network.embedding_dim,)
    network.train()
    features = network.features(torch.randn(2, 1, size, size))
    stem = next(parameter for parameter in network.parameters() if parameter.dim() == 4)
    for values in features.maps:  # a loss on any of them reaches the first convolution
        (gradient,) = torch.autograd.grad(values.square().sum(), stem, retain_graph=True)
        assert gradient.abs().sum() > 0


def test_torchvisions_large_families_are_tapped_too() -> None:
    """On the meta device, for their millions of weights."""
    with torch.device("meta"):
        vgg, vit = (build_network(f"torchvision/{name}", num_classes=5) for name in ("vgg11", "vit_b_32"))
    assert [tap.path for tap in vgg.maps] == [f"features.{number}" for number in (1, 4, 9, 14, 19)]
    assert [tap.path for tap in vit.maps] == [f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8, 11)]
    maps = vit.features(torch.empty(2, 3, 224, 224, device="meta")).maps
    assert [tuple(values.shape) for values in maps] == [(2, 768, 7, 7)] * 4


def test_own_taps_win_over_the_family() -> None:
    taps = {
        "maps": ["layer2", {"path": "layer3", "layout": "nchw"}],
        "head": "fc",
        "embedding": {"path": "layer4"},
    }
    network = build_network("torchvision/resnet18", num_classes=5, taps=taps)
    assert [tap.path for tap in network.maps] == ["layer2", "layer3"]
    shapes = output_shapes(network, (3, 64, 64))
    assert shapes.maps == ((128, 8, 8), (256, 4, 4))
    assert shapes.embedding == (512,)
    with refused("unknown-module-path"):
        build_network("torchvision/resnet18", num_classes=5, taps={"maps": ["layre2"]})
    ours = build_network("resnet8", num_classes=5, taps={"maps": ["layer1"]})
    assert len(ours.features(torch.zeros(1, 3, 8, 8)).maps) == 1


@pytest.mark.parametrize(
    ("name", "taps", "stages"),
    [
        ("torchvision/resnet18", {}, 6),
        ("timm/resnet10t", {}, 6),
        ("timm/resnet10t", {"maps": ["layer2", "layer4"]}, 3),
        ("timm/resnet10t", {"maps": ["layer2"], "head": "fc"}, 2),
        (
            "torchvision/regnet_y_400mf",  # the example of docs/networks.md
            {"stages": [["stem"], *([f"trunk_output.block{i}"] for i in (1, 2, 3, 4)), ["avgpool"]]},
            6,
        ),
    ],
)
def test_a_residual_network_is_cut_without_a_declaration_others_by_one(
    name: str, taps: dict[str, Any], stages: int
) -> None:
    network = build_network(name, num_classes=5, taps=taps)
    assert len(as_staged(network, "student").stages()) == stages
    check_stages(network, (3, 64, 64))


@pytest.mark.parametrize(
    ("name", "options", "taps"),
    [
        ("timm/vit_tiny_patch16_224", VIT, {}),
        ("torchvision/mobilenet_v2", {}, {}),
        ("timm/resnet10t", {}, {"maps": ["layer2.0"]}),
        ("timm/resnet10t", {}, {"maps": ["layer3", "layer2"]}),
        ("timm/resnet10t", {}, {"embedding": "layer3"}),
        ("timm/resnet10t", {}, {"stages": []}),
        ("timm/resnet10t", {"drop_rate": 0.1}, {}),
        ("resnet8", {}, {"maps": ["layer1"]}),
    ],
)
def test_where_the_stages_are_not_known_they_are_asked_for(
    name: str, options: dict[str, Any], taps: dict[str, Any]
) -> None:
    network = build_network(name, num_classes=5, in_channels=1, taps=taps, **options)
    with refused("stages-missing"):
        as_staged(network, "teacher")


def test_a_network_of_no_known_family_has_no_maps() -> None:
    assert default_maps(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))) == []
    assert default_maps(torchvision.models.squeezenet1_0(weights=None)) != []


class Listing(nn.Module):
    """Named as a family's stages are, but one of them gives a list, as SelecSLS's do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.layer2.register_forward_hook(lambda _module, _inputs, output: [output])
        self.fc = nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(images))[0]).mean(dim=(2, 3)))


def test_default_taps_that_give_no_map_are_left_out_and_a_users_own_are_refused() -> None:
    for network in (tap(Listing()), tapped(Listing(), name="listing", num_classes=2)):
        shapes = output_shapes(network, (3, 4, 4))
        assert shapes.maps == ((3, 4, 4), (), (3, 4, 4))
        assert "layer2" in shapes.left_out[1]
    for network in (
        tap(Listing(), maps=["layer2"]),
        tapped(Listing(), name="l", num_classes=2, taps={"maps": ["layer2"]}),
    ):
        with refused("not-a-tensor"):
            output_shapes(network, (3, 4, 4))


class ChannelsLast(nn.Module):
    """As timm's VOLO is: its features are [B, H, W, C], and only the number of channels that it states tells."""

    feature_info = (
        {"module": "patches", "num_chs": 6, "reduction": 2},
        {"module": "mixed", "num_chs": 6, "reduction": 2},
    )

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.patches, self.mixed = nn.PixelUnshuffle(2), nn.Linear(12, 6), nn.Linear(6, 6)
        self.fc = nn.Linear(6, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.mixed(self.patches(self.cut(images).permute(0, 2, 3, 1))).mean(dim=(1, 2)))


def test_default_taps_whose_channels_come_last_are_no_maps_until_their_layout_is_stated() -> None:
    shapes = output_shapes(tapped(ChannelsLast(), name="n", num_classes=2), (3, 8, 8))
    assert shapes.maps == ((), ())
    assert all("layout: nhwc" in reason for reason in shapes.left_out.values())
    network = tap(ChannelsLast(), maps=[Tap("mixed", "nhwc")])
    assert output_shapes(network, (3, 8, 8)).maps == ((6, 4, 4),)


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "size", "maps"),
    [
        ("selecsls42b", 64, [(32, 32, 32), (), (), (), (1024, 2, 2), (1024, 1, 1)]),
        ("coat_lite_tiny", 224, [()] * 4),
        (
            "tresnet_m",
            64,
            [(64, 16, 16), (128, 8, 8), (1024, 4, 4), (2048, 2, 2)],
        ),  # an entry without a module
    ],
)
def test_timms_networks_whose_features_are_no_maps_are_classifiers(
    name: str, size: int, maps: list[tuple[int, ...]]
) -> None:
    shapes = output_shapes(build_network(f"timm/{name}", num_classes=5), (3, size, size))
    assert shapes.logits == (5,)
    assert list(shapes.maps) == maps
