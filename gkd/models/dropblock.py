"""DropBlock: dropout of squares, for maps whose neighbouring values are correlated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WARM_UP = 40_000  # training steps after which the full rate is dropped; MetaOptNet's code


class DropBlock(nn.Module):
    """Dropout of squares of a map in train mode, more of them from step to step (Ghiasi, Lin, Le, NeurIPS 2018).

    At training step n = 1, 2, ... the rate is r = rate · min(1, n / 40000). Each place where a square of b × b fits
    into a channel's map of H × W begins a dropped square with probability::

        γ = r / b² · H · W / ((H − b + 1) · (W − b + 1))

    so that about r of the values are dropped, a little less where squares overlap. The others are divided by
    their fraction in the whole batch, as in MetaOptNet's code. Where the map is smaller than a square, the square
    is cut to the map. Eval mode changes nothing, and its passes do not count; n is in the state dict.

    Args:
        rate: the rate after the warm-up, in [0, 1).
        size: b, the side of a square.
    """

    num_batches_tracked: Tensor

    def __init__(self, rate: float, size: int) -> None:
        super().__init__()
        self.rate = rate
        self.size = size
        # BatchNorm's name: weights saved without the count load as BatchNorm's from before it counted
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` of the same shape."""
        if not self.training or self.rate == 0:
            return x
        self.num_batches_tracked.add_(1)
        rate = (self.num_batches_tracked * (self.rate / _WARM_UP)).clamp(max=self.rate)
        batch, channels, height, width = x.shape
        tall, wide = min(self.size, height), min(self.size, width)
        places = (height - tall + 1) * (width - wide + 1)
        gamma = rate * (height * width / (tall * wide * places))
        corners = torch.rand(batch, channels, height - tall + 1, width - wide + 1, device=x.device) < gamma
        padded = F.pad(corners.float(), (wide - 1, wide - 1, tall - 1, tall - 1))
        mask = 1 - F.max_pool2d(padded, (tall, wide), stride=1).float()
        scale = 1 / mask.mean().clamp(min=1 / mask.numel())  # an empty mask gives zeros, not NaN
        return x * (mask * scale).to(x.dtype)
