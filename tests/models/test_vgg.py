"""VGG for small images: where it pools, and how it starts."""

import pytest
import torch

from gkd.models import VGG
from tests.refusals import refused


@pytest.mark.parametrize(
    ("shape", "last"),
    [((32, 32), (4, 4)), ((63, 63), (7, 7)), ((64, 64), (4, 4)), ((64, 63), (8, 7)), ((84, 84), (5, 5))],
)
def test_a_fourth_pooling_comes_where_both_sides_have_64_pixels(
    shape: tuple[int, int], last: tuple[int, int]
) -> None:
    with torch.device("meta"):
        out = VGG(8, num_classes=3).features(torch.empty(1, 3, *shape))
    assert out.maps[4].shape[2:] == last
    assert out.maps[3].shape[2:] == (shape[0] // 8, shape[1] // 8)


def test_starts_as_the_authors_code_does() -> None:
    torch.manual_seed(0)
    network = VGG(8, num_classes=100)
    conv = network.block3[0]
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert not conv.bias.any()
    assert network.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not network.classifier.bias.any()


def test_another_depth_is_refused() -> None:
    with refused("depth-out-of-range"):
        VGG(12, num_classes=3)
