"""Numerics that losses and metrics share: the computing precision, row selection, safe norms."""

from __future__ import annotations

import torch
from torch import Tensor

# Of float64 too, in which a loss may compute what float32 gave it.
_SMALLEST = torch.finfo(torch.float32).tiny


def upcast(x: Tensor) -> Tensor:
    """Half-precision values in float32; float32 and float64 values unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: Tensor) -> torch.autocast:
    """A context in which matrix products on x's device keep the precision of their inputs."""
    return torch.autocast(x.device.type, enabled=False)


def zero_unselected(x: Tensor, mask: Tensor | None) -> Tensor:
    """``x [B, ...]`` with zeros in the rows outside the mask, even where those held NaN."""
    if mask is None:
        return x
    # A zero of x's own type: with a Python number torch converts entry by entry, at three times the cost.
    return torch.where(mask.view(-1, *[1] * (x.dim() - 1)), x, x.new_zeros(()))


def unit_rows(x: Tensor) -> Tensor:
    """The rows of ``x [N, D]`` divided by their L2 norm; a zero row stays zero with a finite gradient."""
    # The direction does not depend on the row's scale; without it squares overflow or vanish.
    x = safe_divide(x, torch.linalg.vector_norm(x.detach(), torch.inf, dim=1, keepdim=True))
    return safe_divide(x, torch.linalg.vector_norm(x, dim=1, keepdim=True))


def safe_divide(x: Tensor, by: Tensor) -> Tensor:
    """``x / by``, and x itself where ``by`` is 0, or so small that the gradient ``1 / by`` is no number of float32."""
    return x / torch.where(by.abs() < _SMALLEST, 1, by)
