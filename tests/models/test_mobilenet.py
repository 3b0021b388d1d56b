"""MobileNets: counts by width, and how they start."""

import pytest
import torch

from gkd.models import MobileNet, MobileNetV2, build_network, count_parameters
from tests.refusals import refused


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mobilenet_1_0", 3_411_976),
        ("mobilenet_0_75", 1_970_360),
        ("mobilenet_0_5", 921_192),
        ("mobilenet_0_25", 264_472),
    ],
)
def test_refilleds_widths_have_its_counts_for_200_birds(name: str, count: int) -> None:
    with torch.device("meta"):
        assert count_parameters(build_network(name, num_classes=200)) == count


def test_version_2_by_name_is_the_half_width() -> None:
    with torch.device("meta"):
        half, full = (build_network(name, num_classes=100) for name in ("MobileNetV2", "MobileNetV2_1_0"))
    assert (count_parameters(half), count_parameters(full)) == (812_836, 2_353_060)


def test_only_a_width_above_1_widens_version_2s_embedding() -> None:
    with torch.device("meta"):
        dims = [MobileNetV2(width, num_classes=3).embedding_dim for width in (0.5, 1.0, 1.5)]
    assert dims == [1280, 1280, 1920]


def test_version_2_starts_as_the_authors_code_does() -> None:
    torch.manual_seed(0)
    network = MobileNetV2(1.0, num_classes=100)
    assert network.conv2[0].weight.std().item() == pytest.approx((2 / 1280) ** 0.5, rel=0.01)
    depthwise = network.get_submodule("blocks.5.0.conv.3")  # the fan out of one channel is counted over all
    assert depthwise.weight.std().item() == pytest.approx((2 / (9 * 576)) ** 0.5, rel=0.05)
    assert network.head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not network.head.bias.any()


@pytest.mark.parametrize("network", [MobileNet, MobileNetV2])
@pytest.mark.parametrize("width", [0, -1, 0.05, float("nan")])
def test_a_width_below_a_tenth_is_refused(network: type, width: float) -> None:
    with refused("width-out-of-range"):
        network(width, num_classes=3)
