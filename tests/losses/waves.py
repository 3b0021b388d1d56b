"""Inputs for pinned numbers that no random generator and no library version can change."""

import torch
from torch import Tensor


def wave(*shape: int, phase: float) -> Tensor:
    """``sin(0.37 i² + phase (i + 1))`` for i = 0, 1, …, in float64."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(0.37 * i * i + phase * (i + 1)).view(*shape)
