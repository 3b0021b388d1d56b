"""A student behind a projector: its layers, its file, what cannot be projected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.network import Network, StagedNetwork
from gkd.core.tapped import output_shapes
from gkd.models import ProjectedNetwork, build_network, check_network_options, projected
from gkd.models.taps import tap
from tests.refusals import refused

PROJECTOR: dict[str, Any] = {"channels": 24, "size": (2, 2), "factor": 3}
NAMES = ["resnet8", "wrn_10_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet18"]


def images(size: int = 32) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", NAMES)
def test_the_logits_are_the_heads_of_the_mean_of_the_projected_map(name: str) -> None:
    torch.manual_seed(0)
    network: Any = build_network(name, num_classes=4, projector=PROJECTOR).eval()
    plain: Any = build_network(name, num_classes=4).eval()
    plain.load_state_dict(network.network.state_dict(), strict=False)  # but for the head
    out, before = network.features(images()), plain.features(images())
    assert isinstance(network, Network)
    assert not isinstance(network, StagedNetwork)
    x = before.pooled_map
    if x.shape[2] > 2:
        x = F.adaptive_avg_pool2d(x, 2)
    layers = [*network.projector]
    for convolution, norm in zip(layers[::3], layers[1::3], strict=True):
        x = F.relu(norm(F.conv2d(x, convolution.weight, padding=convolution.weight.shape[2] // 2)))
    torch.testing.assert_close(out.pooled_map, x)
    torch.testing.assert_close(out.embedding, x.mean((2, 3)))
    torch.testing.assert_close(out.logits, F.linear(x.mean((2, 3)), network.head.weight, network.head.bias))
    assert torch.equal(out.logits, network(images()))
    assert all(torch.equal(a, b) for a, b in zip(out.maps, before.maps, strict=True))
    asked = network.features(images(), preact=True)
    assert len(asked.preact_maps) == len(asked.maps)
    shapes = output_shapes(network, (3, 32, 32))
    assert shapes.embedding == (24,)
    assert shapes.pooled is not None
    assert shapes.pooled[0] == 24


def test_the_widths_are_those_of_the_authors() -> None:
    """Channels in, half of the teacher's twice, the teacher's; a BatchNorm and a ReLU after each, no bias."""
    network = projected(build_network("resnet8", num_classes=4), {"channels": 256})
    convolutions = [part for part in network.projector if isinstance(part, nn.Conv2d)]
    assert [tuple(c.weight.shape) for c in convolutions] == [
        (128, 64, 1, 1),
        (128, 128, 3, 3),
        (256, 128, 1, 1),
    ]
    assert all(c.bias is None for c in convolutions)
    kinds = [type(part).__name__ for part in network.projector]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * 3


def test_every_parameter_of_a_projected_student_is_trained() -> None:
    torch.manual_seed(0)
    network = build_network("resnet8", num_classes=4, projector=PROJECTOR)
    network(images()).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_what_cannot_be_projected_is_refused(tmp_path: Path) -> None:
    with refused("needs-linear-head"):
        build_network("resnet8", num_classes=4, head="cosine", projector=PROJECTOR)
    with refused("invalid-option"):
        build_network("resnet8", num_classes=4, projector={"channels": 0})
    with refused("invalid-option"):
        check_network_options("resnet8", {"projector": {"width": 3}})
    check_network_options("resnet8", {"projector": PROJECTOR})
    other = tap(build_network("resnet8", num_classes=4), maps=["layer1"], embedding="layer2")
    with refused("needs-untapped-embedding"):
        projected(other, PROJECTOR)
    flattening = build_network("conv4_64", num_classes=4, image_size=32)
    assert isinstance(projected(flattening, PROJECTOR), ProjectedNetwork)
    with refused("no-pooled-map"):
        projected(build_network("conv4_64", num_classes=4, image_size=32), PROJECTOR)(images())
