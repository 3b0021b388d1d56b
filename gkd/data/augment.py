"""Augmentation and normalisation of a whole batch on its device, as pure functions.

An augmentation maps uint8 images to uint8 images of the same shape. What it draws comes from
:func:`gkd.data.random.uniform`, keyed by each sample's number, so a sample's crop does not depend on the
batch it is in.

The border that a crop can show is black: zeros are put around the *pixels*, before normalisation, as
torchvision's RandomCrop does on a PIL image; after normalisation they are -mean/std, not 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from gkd.data.images import ImageSet
from gkd.data.random import uniform

# The numbers that one view of a sample draws. "crop" and "crop-flip" share theirs: with one seed they crop
# alike.
_DRAW_TOP, _DRAW_LEFT, _DRAW_FLIP = range(3)

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

# Per-channel (mean, std) of the training pixels in [0, 1], as the field's repositories write them.
STATISTICS: dict[str, Statistics] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}


class Augmentation(Protocol):
    """What an augmentation is called with.

    Args:
        images: uint8 ``[B, C, H, W]``.
        index: int64 ``[B]`` on the same device, each sample's number in its data set.
        seed, stage, epoch, view: the rest of the random numbers' address.

    Returns:
        uint8 ``[B, C, H, W]``, a new tensor unless nothing is done.
    """

    def __call__(
        self, images: Tensor, index: Tensor, *, seed: int, stage: int, epoch: int, view: int = 0
    ) -> Tensor: ...


def no_augmentation(
    images: Tensor, index: Tensor, *, seed: int, stage: int, epoch: int, view: int = 0
) -> Tensor:
    """The images as they are."""
    return images


def crop(images: Tensor, index: Tensor, *, seed: int, stage: int, epoch: int, view: int = 0) -> Tensor:
    """A random crop of the image's own size out of the image with a black border.

    The border is an eighth of the shorter side, rounded down (4 pixels at 32, 1 at 8); each of the
    (2·border + 1)² positions is equally likely.
    """
    height, width = images.shape[2:]
    border = min(height, width) // 8
    top = uniform(seed, stage, epoch, index, view=view, draw=_DRAW_TOP) * (2 * border + 1)
    left = uniform(seed, stage, epoch, index, view=view, draw=_DRAW_LEFT) * (2 * border + 1)
    padded = functional.pad(images, (border, border, border, border))
    # Every possible crop as a view, without copies: [B, top, left, C, H, W]. Indexing the first three
    # dimensions then copies one whole crop a sample; no index tensor of the size of the images is built.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    sample = torch.arange(len(images), device=images.device)
    return crops[sample, top.long(), left.long()]


def flip(images: Tensor, index: Tensor, *, seed: int, stage: int, epoch: int, view: int = 0) -> Tensor:
    """Left and right exchanged with probability one half."""
    chosen = uniform(seed, stage, epoch, index, view=view, draw=_DRAW_FLIP) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def crop_flip(images: Tensor, index: Tensor, *, seed: int, stage: int, epoch: int, view: int = 0) -> Tensor:
    """:func:`crop`, then :func:`flip`: the standard augmentation of the CIFAR experiments."""
    cropped = crop(images, index, seed=seed, stage=stage, epoch=epoch, view=view)
    return flip(cropped, index, seed=seed, stage=stage, epoch=epoch, view=view)


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": no_augmentation,
    "crop": crop,
    "crop-flip": crop_flip,
}


def per_channel(values: Sequence[float] | Tensor, device: torch.device | str) -> Tensor:
    """One number a channel as float32 ``[C, 1, 1]`` on ``device``, to broadcast over images."""
    return torch.as_tensor(values, dtype=torch.float32, device=device).reshape(-1, 1, 1)


def normalise(
    images: Tensor,
    mean: Sequence[float] | Tensor,
    std: Sequence[float] | Tensor,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """(images / 255 - mean) / std for each channel.

    Args:
        images: uint8 ``[B, C, H, W]``.
        mean, std: C numbers each, in units of pixels in [0, 1]; tensors on the images' device avoid a
            copy per call.
        dtype: of the result; the arithmetic is float32 in any case.
        memory_format: of the result; ``torch.channels_last`` where the network is.

    Returns:
        ``dtype`` ``[B, C, H, W]``.
    """
    # Three separately rounded operations: a fused multiply-add could round a value differently in the
    # vector loop and in its scalar tail, and so make a pixel depend on the batch size.
    values = images.to(torch.float32, memory_format=torch.contiguous_format)
    values = values.div_(255).sub_(per_channel(mean, images.device)).div_(per_channel(std, images.device))
    # The layout comes last: broadcasting [C, 1, 1] over channels_last takes eight times as long.
    return values.to(dtype).contiguous(memory_format=memory_format)


def channel_statistics(images: ImageSet) -> Statistics:
    """Mean and standard deviation of each channel over all pixels of a set, in units of [0, 1].

    Exact: from a histogram of the 256 values. The deviation is the population's; a constant channel gets 1
    in place of 0, so that it normalises to zero.

    Returns:
        (mean, std), C floats each.
    """
    histogram = torch.zeros(images.channels, 256, dtype=torch.int64, device=images.images.device)
    for chunk in images.images.split(4096):
        for channel in range(images.channels):
            histogram[channel] += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    counts = histogram.cpu().to(torch.float64)
    values = torch.arange(256, dtype=torch.float64) / 255
    total = counts.sum(dim=1)
    mean = (counts @ values) / total
    deviation = ((counts * (values - mean[:, None]) ** 2).sum(dim=1) / total).sqrt()
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    return tuple(mean.tolist()), tuple(deviation.tolist())
