"""How a term's losses of several teachers become one.

A term over several teachers is computed as one term for each (``gkd.methods.readers.parts_of``), with a projector and
a queue of its own, and ``loss/TERM/TEACHER`` stands beside ``loss/TERM`` in the metrics.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gkd.methods.terms import Combination


def combined(losses: Sequence[Tensor], how: Combination, *, drop_rate: float = 0.5) -> Tensor:
    """One 0-dim loss of a term's losses with each teacher.

    ``sum``: their sum. ``mean``: their mean. ``drop``, teacher dropping: the mean over the kept teachers, which are the
    one with the largest loss, and each other one with the probability ``1 − drop_rate``; a teacher that is left out
    gives no gradient in that step.

    UNIC draws for each image, and divides by the number of kept pairs of image and teacher. Losses here are one number
    a batch, and many have no value for one image, so this draws once for each batch: ours, after UNIC. The draws are
    from torch's generator of the device, whose state a checkpoint keeps.

    Args:
        losses: 0-dim, one a teacher; a single one is returned as it is.
        how: the combination.
        drop_rate: of ``drop``, in [0, 1]; 0.5 in UNIC.

    Paper:
        Sariyildiz, Weinzaepfel, Lucas, Larlus, Kalantidis: UNIC: Universal Classification Models via Multi-teacher
        Distillation, ECCV 2024, arXiv 2408.05088; as in naver/unic@698a382, but for the draw.
    """
    if len(losses) == 1:
        return losses[0]
    each = torch.stack(list(losses))
    if how == "sum":
        return each.sum()
    if how == "mean":
        return each.mean()
    kept = torch.rand(len(each), device=each.device) >= drop_rate
    kept = kept | (torch.arange(len(each), device=each.device) == each.detach().argmax())
    return torch.where(kept, each, 0).sum() / kept.sum()
