"""Whether a network's logits are its head's of its embedding, which growing takes for granted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gkd.models import build_network
from gkd.models.head_check import head_gives_logits
from gkd.models.taps import tap
from tests.network_helpers import VIT, Behind


@pytest.mark.parametrize(
    ("kind", "gives"),
    [
        ("plain", True),
        ("flatten", True),
        ("dropout", True),  # nothing in eval mode
        ("tokens", True),  # the mean over places is linear, as the head is
        ("mean", False),
        ("zero", False),
        ("beside", False),
        ("scale", False),
        ("plus", False),
    ],
)
def test_what_stands_behind_the_head_is_noticed_and_leaves_no_trace(kind: str, gives: bool) -> None:
    torch.manual_seed(0)
    network = tap(Behind(kind)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    drawn = torch.get_rng_state()
    assert head_gives_logits(network, (1, 8, 8)) is gives
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(module.training for module in network.modules())


def test_a_head_that_starts_at_zero_is_the_head() -> None:
    module = Behind()
    nn.init.zeros_(module.fc.weight)
    nn.init.zeros_(module.fc.bias)
    assert head_gives_logits(tap(module), (1, 8, 8))


@pytest.mark.parametrize(
    ("taps", "gives"),
    [
        ({"embedding": "avgpool"}, True),  # what the head reads, named
        ({"embedding": "layer4"}, True),  # its mean over space is that
        ({"embedding": "layer3"}, False),
        ({"embedding": "relu"}, False),
    ],
)
def test_an_embedding_of_the_users_own_is_judged_too(taps: dict[str, Any], gives: bool) -> None:
    torch.manual_seed(0)
    network = build_network("torchvision/resnet18", num_classes=3, taps=taps)
    assert head_gives_logits(network, (3, 32, 32)) is gives


@pytest.mark.parametrize(
    ("name", "options", "gives"),
    [
        ("timm/deit_tiny_distilled_patch16_224", VIT, False),
        ("timm/vit_tiny_patch16_224", VIT, True),
        ("resnet8", {"head": "proxy"}, True),
        ("resnet8", {"extractors": 2}, True),
    ],
)
def test_networks_by_name(name: str, options: dict[str, Any], gives: bool) -> None:
    network = build_network(name, num_classes=3, in_channels=1, **options)
    assert head_gives_logits(network, (1, 16, 16)) is gives


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "size", "gives"),
    [
        ("levit_128s", 224, False),
        ("efficientformer_l1", 224, False),
        ("repvit_m0_9", 64, False),
        ("crossvit_tiny_240", 240, False),
        ("volo_d1_224", 224, False),
        ("mixer_s32_224", 224, True),
        ("cait_xxs24_224", 224, True),
        ("convmixer_768_32", 64, True),
        ("fastvit_t8", 64, True),
        ("selecsls42b", 64, True),
        ("coat_lite_tiny", 224, True),
        ("tresnet_m", 64, True),
    ],
)
def test_networks_of_timm_with_one_head_and_with_two(name: str, size: int, gives: bool) -> None:
    network = build_network(f"timm/{name}", num_classes=5)
    assert head_gives_logits(network, (3, size, size)) is gives
