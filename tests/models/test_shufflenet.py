"""The channel shuffle, and the tap before it."""

import pytest
import torch

from gkd.models import build_network
from gkd.models.layers import shuffle


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_shuffle_interleaves_the_groups_and_keeps_the_layout(
    layout: torch.memory_format, groups: int
) -> None:
    x = torch.randn(2, 6, 4, 5).contiguous(memory_format=layout)
    each = 6 // groups
    out = shuffle(x, groups)
    for group in range(groups):
        for i in range(each):
            assert torch.equal(out[:, i * groups + group], x[:, group * each + i])
    assert out.is_contiguous(memory_format=layout)


def test_version_2s_tap_before_the_relu_is_the_kept_half_then_the_computed_one() -> None:
    torch.manual_seed(0)
    network = build_network("ShuffleV2", num_classes=3).eval()
    images = torch.randn(2, 3, 16, 16)
    for tapped in network.features(images, preact=True).preact_maps[1:]:
        kept, computed = tapped.chunk(2, dim=1)
        assert (kept >= 0).all()
        assert (computed < 0).any()
