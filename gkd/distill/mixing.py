"""Virtual samples: weighted sums of the images of a batch, made in each step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd.core.batch import Batch
from gkd.core.errors import UserError
from gkd.methods.mixup import Mixup


@dataclass(frozen=True)
class Mixture:
    """The images and weights of each virtual sample of a batch.

    Attributes:
        partner: int64 ``[B, K]``, rows of the batch; the first column is the row itself.
        weight: ``[B, K]``, above 0, rows sum to 1.
    """

    partner: Tensor
    weight: Tensor


def draw_mixture(options: Mixup, size: int, device: torch.device) -> Mixture:
    """Draw partners, by random permutations of the batch, and weights from torch's global generator."""
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
    """The virtual samples of a batch; their labels are distributions ``[B, num_classes]``.

    Raises:
        UserError: a batch of samples without a label.
    """
    if batch.labelled is not None:
        raise UserError(
            "Virtual samples mix labels, and some samples of the batch have none; mix batches of labelled samples.",
            code="needs-labels",
        )
    labels = mix(F.one_hot(batch.labels, num_classes).to(mixture.weight.dtype), mixture)
    view = None if batch.view is None else mix(batch.view, mixture)
    views = {name: mix(images, mixture) for name, images in batch.views.items()}
    images = mix(batch.images, mixture)
    # What teachers said of the clean images is not of these.
    return replace(batch, images=images, labels=labels, view=view, views=views, teacher=None, outputs={})


def interpolated_logits(logits: Tensor, mixture: Mixture, temperature: float) -> Tensor:
    """Logits ``[B, C]`` whose softmax at ``temperature`` is the mixture of the partners' softmaxes at it.

    ``T · ln Σ_k w_k softmax(z_k / T)``, in log space.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probabilities = (logits / temperature).log_softmax(1)[mixture.partner]  # [B, K, C]
    return temperature * (log_probabilities + mixture.weight.log().unsqueeze(2)).logsumexp(1)
