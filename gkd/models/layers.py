"""Shared by the networks: the check of images, convolutions, pooling, and passes that collect the maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.network import Features, Stages, through

T = TypeVar("T")


def check_images(images: Tensor, in_channels: int, min_size: int) -> None:
    """Refuse images that a network cannot take.

    Reads shapes only, so it costs no synchronisation and leaves one graph under ``torch.compile``.

    Args:
        images: ``[B, in_channels, H, W]`` with H and W of ``min_size`` or more.
        in_channels: the channels that the network was built for.
        min_size: the network's ``min_image_size``, in pixels.

    Raises:
        UserError: another number of dimensions or channels, or a side below ``min_size``.
    """
    if images.dim() != 4:
        raise UserError(
            f"Images have shape {list(images.shape)}; give a batch [B, {in_channels}, H, W] "
            "(images.unsqueeze(0) makes one image a batch).",
            code="not-a-batch",
        )
    channels, height, width = images.shape[1:]
    if channels != in_channels:
        raise UserError(
            f"Images have {channels} channels and the network was built for {in_channels}; "
            f"build it with in_channels={channels} or convert the images.",
            code="other-channels",
        )
    if height < min_size or width < min_size:
        raise UserError(
            f"Images of {height}×{width} pixels are too small for this network: height and width must be at "
            f"least {min_size}; resize the images, or choose a network that halves them less often.",
            code="images-too-small",
        )


def pool(active: Tensor) -> Tensor:
    """The mean over space, ``[B, D, H, W] -> [B, D]``, for maps of any size."""
    return active.mean(dim=(2, 3))


@dataclass(frozen=True)
class PooledAfter:
    """A network's last stage where the embedding is the mean over space of a map that is made of its last one."""

    made: Callable[[Tensor], Tensor]

    def __call__(self, last: Tensor) -> Tensor:
        return pool(self.made(last))


def embedded(stage: Callable[[Tensor], Tensor], last: Tensor) -> tuple[Tensor, Tensor | None]:
    """The embedding that the last stage makes of the last map, and the map that it averages; None for none."""
    if stage is pool:
        return pool(last), last
    if isinstance(stage, PooledAfter):
        pooled = stage.made(last)
        return pool(pooled), pooled
    return stage(last), None


def conv3x3(in_width: int, out_width: int, stride: int = 1) -> nn.Conv2d:
    """A 3×3 convolution without bias that keeps the size, or halves it (rounding up) at stride 2."""
    return nn.Conv2d(in_width, out_width, 3, stride=stride, padding=1, bias=False)


def conv1x1(in_width: int, out_width: int, *, groups: int = 1) -> nn.Conv2d:
    """A 1×1 convolution without bias."""
    return nn.Conv2d(in_width, out_width, 1, groups=groups, bias=False)


def depthwise3x3(width: int, stride: int) -> nn.Conv2d:
    """A 3×3 convolution without bias, each channel by itself; halves the size (rounding up) at stride 2."""
    return nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False)


def kaiming_over_fan_out(network: nn.Module) -> None:
    """Draw every convolution's weight from N(0, 2 / (k² · out)); He et al., 2015, over the fan out.

    BatchNorm starts at 1 and 0 by itself.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def features_of(stages: Stages, head: nn.Module, images: Tensor) -> Features:
    """Logits, embedding and maps of one forward pass through a network's stages and head."""
    *between, last = stages
    x, maps = images, []
    for stage in between:
        x = stage(x)
        maps.append(x)
    embedding, pooled = embedded(last, x)
    return Features(head(embedding), embedding, tuple(maps), pooled_map=pooled)


def preact_features_of(stages: Stages, head: nn.Module, images: Tensor) -> Features:
    """``features_of`` with ``preact_maps``, the maps before the last ReLU of all stages but the first.

    Args:
        stages: those between the first and the last are sequences of blocks that end in a ReLU and have
            ``before_relu``; a block whose ``relu`` is false has none.
        head: maps the embedding to the logits.
        images: ``[B, C, H, W]``.
    """
    first, *between, last = stages
    x = first(images)
    maps, before = [x], [x]
    for stage in between:
        *blocks, end = stage.children()  # type: ignore[attr-defined]
        before.append(end.before_relu(through(blocks, x)))
        x = F.relu(before[-1]) if getattr(end, "relu", True) else before[-1]
        maps.append(x)
    embedding, pooled = embedded(last, x)
    return Features(head(embedding), embedding, tuple(maps), tuple(before), pooled)


def cut(blocks: Iterable[nn.Module], ends: Sequence[int]) -> Stages:
    """Consecutive blocks as stages; each stage ends with the block at one of the positions ``ends``."""
    return tuple(partial(through, part) for part in parts(tuple(blocks), ends))


def parts(row: Sequence[T], ends: Sequence[int]) -> list[Sequence[T]]:
    """A sequence in parts that end at the positions ``ends``; entries after the last of them are dropped."""
    begins = (0, *(end + 1 for end in ends[:-1]))
    return [row[begin : end + 1] for begin, end in zip(begins, ends, strict=True)]


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle: channel i of group g goes to position i · groups + g, in ``[B, C, H, W]``.

    Raises:
        RuntimeError: ``groups`` does not divide C.
    """
    if x.is_contiguous(
        memory_format=torch.channels_last
    ):  # a reshape of the split channels would lose the layout
        split = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1))
        return split.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
