"""Virtual samples: weighted sums of the images of a batch, or boxes of one in another, made in each step."""

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
        weight: ``[B, K]``, rows sum to 1.
        box: ``[B, 4]``, top, left, bottom and right of what is the second image's, as shares of height and width; None
            where whole images are summed by their weights.
    """

    partner: Tensor
    weight: Tensor
    box: Tensor | None = None


def draw_mixture(
    options: Mixup, size: int, device: torch.device, image_size: tuple[int, int] | None = None
) -> Mixture:
    """Draw partners, by random permutations of the batch, and weights from torch's global generator.

    Args:
        options: how to mix.
        size: B.
        device: of the result.
        image_size: height and width of the student's images in pixels, which a box is of whole numbers of; None where
            none is drawn.
    """
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
    weight = weight.view(-1, options.images)
    if options.probability < 1:
        mixed = torch.rand(len(weight), 1, device=device) < options.probability
        weight = torch.where(mixed, weight, torch.eye(options.images, device=device)[0])
    box = None
    if options.kind == "cutmix":
        assert image_size is not None
        box, weight = _draw_boxes(weight, image_size)
        box = box.expand(size, 4)
    return Mixture(torch.stack(columns, 1), weight.expand(size, options.images), box)


def _draw_boxes(weight: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes ``[R, 4]`` around uniformly drawn pixels for weights ``[R, 2]``, and the weights that their areas give.

    A box has the image's proportions and the second weight as its share of the area, in whole pixels rounded down, and
    what of it lies outside the image is lost (Yun et al., ICCV 2019, arXiv 1905.04899, eq. 2, and their code).
    """
    extent = torch.tensor(image_size, dtype=weight.dtype, device=weight.device)
    sides = (extent * weight[:, 1:].sqrt()).floor()
    middle = (torch.rand(len(weight), 2, device=weight.device) * extent).floor()
    first = (middle - (sides / 2).floor()).clamp(min=0)
    last = torch.minimum(middle + (sides / 2).floor(), extent)
    second = ((last - first) / extent).prod(1)
    return torch.cat([first / extent, last / extent], 1), torch.stack([1 - second, second], 1)


def mix_images(images: Tensor, mixture: Mixture) -> Tensor:
    """``[B, C, H, W]``: weighted sums of images, or each with a box of its partner in it.

    In images of another size than the box was drawn for its edges are the nearest whole pixels.
    """
    if mixture.box is None:
        return mix(images, mixture)
    top, left, bottom, right = (edge.unsqueeze(1) for edge in mixture.box.unbind(1))
    height, width = images.shape[-2:]
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    down = (rows >= (top * height).round()) & (rows < (bottom * height).round())
    across = (columns >= (left * width).round()) & (columns < (right * width).round())
    inside = (down.unsqueeze(2) & across.unsqueeze(1)).unsqueeze(1)
    return torch.where(inside, images[mixture.partner[:, 1]], images)


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
    view = None if batch.view is None else mix_images(batch.view, mixture)
    views = {name: mix_images(images, mixture) for name, images in batch.views.items()}
    images = mix_images(batch.images, mixture)
    # What teachers said of the clean images is not of these.
    return replace(batch, images=images, labels=labels, view=view, views=views, teacher=None, outputs={})


def interpolated_logits(logits: Tensor, mixture: Mixture, temperature: float) -> Tensor:
    """Logits ``[B, C]`` whose softmax at ``temperature`` is the mixture of the partners' softmaxes at it.

    ``T · ln Σ_k w_k softmax(z_k / T)``, in log space. Of CutMix w are shares of the area: the target says that so much
    of the image is the one and so much the other, whatever the teacher would see at the edges of the box.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probabilities = (logits / temperature).log_softmax(1)[mixture.partner]  # [B, K, C]
    return temperature * (log_probabilities + mixture.weight.log().unsqueeze(2)).logsumexp(1)
