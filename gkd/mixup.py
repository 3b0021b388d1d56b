"""Virtual samples: mixtures of the images of a batch, made in the step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from torch.nn import functional as F

from gkd.data.augment import parse_link
from gkd.errors import UserError
from gkd.features import Batch


class Mixup(BaseModel):
    """How a stage makes virtual samples, for its terms with ``samples: virtual``.

    Attributes:
        images: how many images of the batch make one virtual sample.
        alpha: the weights come from Dirichlet(alpha, ...), for two images Beta(alpha, alpha).
        weight: the first image's weight, fixed, the others sharing the rest (then alpha and per say nothing); None
            draws all weights.
        per: one draw for the whole ``batch``, or one for each ``sample``.
        teacher: the target is the teacher's output for the ``mixed`` image, or its distributions for the images,
            ``interpolated`` with their weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(default=2, ge=2)
    alpha: float = Field(default=1.0, gt=0)
    weight: float | None = Field(default=None, gt=0, lt=1)
    per: Literal["batch", "sample"] = "batch"
    teacher: Literal["mixed", "interpolated"] = "mixed"


def without_mixup(augment: str) -> tuple[str, Mixup | None]:
    """An augmentation without its last link where that is ``mixup``, and how that mixes.

    Raises:
        UserError: an option that mixup does not take so, or one out of range.
    """
    *before, last = augment.split("+")
    if not last.strip().startswith("mixup"):
        return augment, None
    name, options = parse_link(last)
    if name != "mixup" or options.keys() - {"alpha", "images"}:
        raise UserError(
            f"The augmentation {last.strip()!r} is not of the form mixup or mixup(alpha=0.2, images=2)."
        )
    try:
        return "+".join(before) or "none", Mixup.model_validate(options)
    except ValidationError as error:
        problem = error.errors()[0]
        raise UserError(
            f"The augmentation {last.strip()!r}: {problem['loc'][0]}: {problem['msg']}."
        ) from None


@dataclass(frozen=True)
class Mixture:
    """Which images make each virtual sample of a batch.

    Attributes:
        partner: int64 ``[B, K]``, rows of the batch; the first column is the row itself.
        weight: ``[B, K]``, above 0, rows sum to 1.
    """

    partner: Tensor
    weight: Tensor


def draw_mixture(options: Mixup, size: int, device: torch.device) -> Mixture:
    """Partners by random permutations of the batch and their weights, from torch's global generator."""
    columns = [torch.arange(size, device=device)]
    columns += [torch.randperm(size, device=device) for _ in range(options.images - 1)]
    if options.weight is not None:
        rest = (1 - options.weight) / (options.images - 1)
        weight = torch.full((options.images,), rest, device=device)
        weight[:1].fill_(options.weight)
    else:
        rows = (size,) if options.per == "sample" else (1,)
        concentration = torch.full((*rows, options.images), options.alpha, device=device)
        weight = torch.distributions.Dirichlet(concentration, validate_args=False).sample()
    return Mixture(torch.stack(columns, 1), weight.expand(size, options.images))


def mix(values: Tensor, mixture: Mixture) -> Tensor:
    """``[B, ...]``: each row the weighted sum of its partners' rows of ``values [B, ...]``."""
    shape = (-1, *[1] * (values.dim() - 1))
    parts = zip(mixture.partner.unbind(1), mixture.weight.to(values.dtype).unbind(1), strict=True)
    total = sum(weight.view(shape) * values[partner] for partner, weight in parts)
    assert isinstance(total, Tensor)
    return total


def mix_batch(batch: Batch, mixture: Mixture, num_classes: int) -> Batch:
    """The virtual samples of a batch; their labels are distributions ``[B, num_classes]``."""
    labels = mix(F.one_hot(batch.labels, num_classes).to(mixture.weight.dtype), mixture)
    view = None if batch.view is None else mix(batch.view, mixture)
    return replace(batch, images=mix(batch.images, mixture), labels=labels, view=view, teacher=None)


def interpolated_logits(logits: Tensor, mixture: Mixture, temperature: float) -> Tensor:
    """Logits ``[B, C]`` whose softmax at ``temperature`` mixes the softmaxes of the partners at it.

    ``T · ln Σ_k w_k softmax(z_k / T)``, in log space.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probabilities = (logits / temperature).log_softmax(1)[mixture.partner]  # [B, K, C]
    return temperature * (log_probabilities + mixture.weight.log().unsqueeze(2)).logsumexp(1)
