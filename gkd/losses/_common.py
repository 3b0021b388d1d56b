"""What several losses share: the computing precision, row selection, safe row norms, means over rows."""

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """Half-precision values in float32; float32 and float64 stay what they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(x: Tensor) -> torch.autocast:
    """A context in which matrix products on x's device keep the precision of their inputs."""
    return torch.autocast(x.device.type, enabled=False)


def zero_unselected(x: Tensor, mask: Tensor | None) -> Tensor:
    """``x [B, ...]`` with zeros in the rows outside the mask, whatever stood there (NaN too)."""
    if mask is None:
        return x
    return torch.where(mask.view(-1, *[1] * (x.dim() - 1)), x, 0)


def mean_over_rows(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of ``values [B]`` over the selected rows; a zero that keeps the graph where none is."""
    if mask is None:
        return values.sum() / max(values.shape[0], 1)
    return zero_unselected(values, mask).sum() / mask.sum().clamp_min(1)


def unit_rows(x: Tensor) -> Tensor:
    """The rows of ``x [N, D]`` divided by their L2 norm; a zero row stays zero with a finite gradient."""
    # The direction does not depend on the row's scale; without it squares overflow or vanish.
    largest = x.detach().abs().amax(dim=1, keepdim=True)
    x = x / torch.where(largest == 0, 1, largest)
    square = (x * x).sum(dim=1, keepdim=True)
    return x / torch.where(square == 0, 1, square).sqrt()


def kl_entries(student_log: Tensor, teacher_log: Tensor) -> Tensor:
    """The summands ``p_T (log p_T − log p_S)`` of KL(teacher‖student) from log-probabilities."""
    return teacher_log.exp() * (teacher_log - student_log)
