"""DropBlock: squares, how many, and a schedule that is state."""

import pytest
import torch
import torch.nn.functional as F

from gkd.models import DropBlock

WARM = 40_000


def dropped(block: DropBlock, x: torch.Tensor) -> torch.Tensor:
    """Where a map of ones is zeroed."""
    torch.manual_seed(0)
    return block(torch.ones_like(x)) == 0


def warm(rate: float, size: int, steps: int = WARM) -> DropBlock:
    """As after so many training steps."""
    block = DropBlock(rate, size)
    block.num_batches_tracked.fill_(steps)
    return block


@pytest.mark.parametrize(("shape", "size"), [((10, 10), 5), ((12, 7), 3), ((8, 8), 4), ((6, 6), 1)])
def test_the_dropped_fraction_is_the_formulas(shape: tuple[int, int], size: int) -> None:
    height, width = shape
    mask = dropped(warm(0.1, size), torch.empty(64, 64, height, width))
    places = (height - size + 1) * (width - size + 1)
    gamma = 0.1 / size**2 * height * width / places
    # how many squares cover each position
    corners = torch.ones(1, 1, height - size + 1, width - size + 1)
    covers = F.conv_transpose2d(corners, torch.ones(1, 1, size, size))
    expected = 1 - (1 - gamma) ** covers
    assert mask.float().mean().item() == pytest.approx(expected.mean().item(), rel=0.03)
    torch.testing.assert_close(mask.float().mean(dim=(0, 1)), expected[0, 0], atol=0.03, rtol=0)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_what_is_dropped_are_squares(size: int) -> None:
    mask = dropped(warm(0.1, size), torch.empty(8, 8, 12, 12)).float()
    whole = -F.max_pool2d(-mask, size, stride=1)  # 1 where a square begins that is all dropped
    union = F.max_pool2d(F.pad(whole, [size - 1] * 4), size, stride=1)
    assert mask.any()
    assert torch.equal(union, mask)


def test_what_is_left_keeps_the_batchs_mean_and_gradient_stops_at_what_is_dropped() -> None:
    torch.manual_seed(0)
    x = torch.rand(16, 8, 10, 10, requires_grad=True)
    out = warm(0.2, 3)(x)
    out.sum().backward()
    kept = out != 0
    assert kept.float().mean() < 0.9
    assert x.grad is not None
    torch.testing.assert_close(x.grad, kept / kept.float().mean())


def test_the_rate_rises_over_training_passes_alone() -> None:
    x = torch.empty(64, 64, 10, 10)
    fractions = [
        dropped(warm(0.2, 1, steps), x).float().mean().item() for steps in (0, 9_999, 19_999, WARM, 10**6)
    ]
    assert fractions == pytest.approx([0, 0.05, 0.1, 0.2, 0.2], abs=0.003)
    block = DropBlock(0.1, 5)
    for _ in range(3):
        block(x[:1, :1])
    block.eval()
    block(x[:1, :1])
    assert int(block.num_batches_tracked) == 3


def test_eval_mode_and_a_rate_of_0_change_nothing() -> None:
    x = torch.randn(4, 4, 10, 10)
    assert warm(0.5, 5).eval()(x) is x
    assert warm(0.0, 5)(x) is x


def test_the_schedule_is_saved_and_resumes() -> None:
    block, resumed = warm(0.5, 3, 1_000), DropBlock(0.5, 3)
    resumed.load_state_dict(block.state_dict())
    x = torch.empty(8, 8, 10, 10)
    assert torch.equal(dropped(block, x), dropped(resumed, x))
    assert block.state_dict() == resumed.state_dict() == {"num_batches_tracked": torch.tensor(1_001)}
    assert block.to("meta").num_batches_tracked.is_meta


def test_a_map_smaller_than_a_square_loses_whole_channels() -> None:
    mask = dropped(warm(0.3, 5), torch.empty(200, 50, 2, 3))
    assert torch.equal(mask.any(dim=(2, 3)), mask.all(dim=(2, 3)))
    assert mask.float().mean().item() == pytest.approx(0.3, abs=0.02)


def test_nothing_kept_gives_zeros_and_not_nan() -> None:
    block = warm(0.999999, 1)
    outs = [block(torch.ones(1, 1, 1, 1)) for _ in range(3)]
    assert all(out.isfinite().all() for out in outs)
    assert any((out == 0).all() for out in outs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_and_the_layout_stay(dtype: torch.dtype) -> None:
    x = torch.randn(2, 4, 10, 10, dtype=dtype).contiguous(memory_format=torch.channels_last)
    out = warm(0.1, 3)(x)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
