"""Normalisation of whole batches on their device, and the channel statistics for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gkd.data.images import ImageSet

_SAMPLED = 5000  # streamed images from which the statistics are computed


Statistics = tuple[tuple[float, ...], tuple[float, ...]]


# Per-channel (mean, std) of the training pixels in [0, 1], as the field's repositories write them.
STATISTICS: dict[str, Statistics] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
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

    Exact: from a histogram of the 256 values. Of images streamed from disk at most 5,000 are read, spread
    evenly over the set. The deviation is the population's; a constant channel gets 1 in place of 0, so that it
    normalises to zero.

    Returns:
        (mean, std), C floats each.
    """
    histogram = torch.zeros(images.channels, 256, dtype=torch.int64, device=images.labels.device)
    for chunk in _pixels_of(images):
        for channel in range(images.channels):
            histogram[channel] += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    counts = histogram.cpu().to(torch.float64)
    values = torch.arange(256, dtype=torch.float64) / 255
    total = counts.sum(dim=1)
    mean = (counts @ values) / total
    deviation = ((counts * (values - mean[:, None]) ** 2).sum(dim=1) / total).sqrt()
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    return tuple(mean.tolist()), tuple(deviation.tolist())


def _pixels_of(images: ImageSet) -> Iterator[Tensor]:
    """Yield the pixels in parts, uint8 ``[B, C, H, W]``."""
    if isinstance(images.images, Tensor):
        yield from images.images.split(4096)
        return
    count = min(len(images), _SAMPLED)
    index = torch.arange(count) * len(images) // count
    for chunk in images.images.stream(index.split(100)):
        yield chunk.to(images.labels.device)
