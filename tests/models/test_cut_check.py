"""Stages that a user declares are tried before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from gkd.core.tapped import TappedNetwork
from gkd.models import build_network
from gkd.models.cut_check import check_stages
from tests.refusals import refused

STEM = ("conv1", "bn1", "relu", "maxpool")
VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}


def cut(*stages: tuple[str, ...], maps: tuple[str, ...] = ("layer2",), **more: Any) -> TappedNetwork:
    torch.manual_seed(0)
    # A block's last BatchNorm starts at 0, so that fresh it is no more than its shortcut.
    module = torchvision.models.resnet18(weights=None, num_classes=5, zero_init_residual=True)
    return TappedNetwork(module, head="fc", maps=maps, stages=stages, **more)


@pytest.mark.parametrize("end", [("layer3", "layer4"), ("layer3", "layer4", "avgpool")])
def test_stages_of_the_forward_pass_are_accepted_and_leave_no_trace(end: tuple[str, ...]) -> None:
    network = cut((*STEM, "layer1", "layer2"), end).train()
    network.module.layer2.eval()
    modes = [module.training for module in network.modules()]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    drawn = torch.get_rng_state()
    check_stages(network, (3, 48, 64))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes


@pytest.mark.parametrize(
    ("stages", "code"),
    [
        (
            ((*STEM, "layer1"), ("layer2", "layer3", "layer4")),
            "wrong-stages",
        ),
        (
            ((*STEM, "layer1", "layer2.0"), ("layer3", "layer4")),
            "wrong-stages",
        ),
        (
            ((*STEM, "layer1", "layer2"), ("layer4", "layer3")),
            "wrong-stages",
        ),
        (((*STEM, "layer1", "layer2"), ("layer3",)), "wrong-stages"),
        ((("layer3", "layer4"), (*STEM, "layer1", "layer2")), "wrong-stages"),
    ],
)
def test_another_chain_is_refused_at_its_first_difference(
    stages: tuple[tuple[str, ...], ...], code: str
) -> None:
    with refused(code):
        check_stages(cut(*stages), (3, 32, 32))


def test_an_embedding_that_the_head_does_not_read_is_refused() -> None:
    network = cut((*STEM, "layer1", "layer2"), ("layer3",), embedding="layer3")
    with refused("wrong-stages"):
        check_stages(network, (3, 32, 32))


def test_tokens_cannot_be_cut() -> None:
    taps = {"maps": ["blocks.0"], "stages": [["patch_embed", "blocks.0"], ["blocks.1", "norm"]]}
    network = build_network("timm/vit_tiny_patch16_224", num_classes=5, in_channels=1, taps=taps, **VIT)
    with refused("wrong-stages"):
        check_stages(network, (1, 16, 16))


class Overwriting(nn.Module):
    """Its stages can be listed so that the second overwrites the first's map, as a forward pass does not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU()
        self.overwrite = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.relu(self.conv(images)).mean(dim=(2, 3)))


def test_a_stage_that_overwrites_the_map_before_it_is_refused() -> None:
    good, bad = (
        TappedNetwork(Overwriting(), head="fc", maps=["conv"], stages=[["conv"], [relu]])
        for relu in ("relu", "overwrite")
    )
    check_stages(good, (3, 8, 8))
    with refused("wrong-stages"):
        check_stages(bad, (3, 8, 8))


class Swapped(nn.Module):
    """A network of one's own whose last stages stand in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build_network("resnet8", num_classes=3)
        self.num_classes, self.embedding_dim = 3, self.inner.embedding_dim
        self.head, self.features = self.inner.head, self.inner.features

    def stages(self) -> Any:
        *stages, third, last = self.inner.stages()
        return (*stages, last, third)


def test_a_network_of_ones_own_is_tried_alike() -> None:
    check_stages(build_network("resnet8", num_classes=3), (3, 8, 8))
    with refused("wrong-stages"):
        check_stages(Swapped(), (3, 8, 8))
