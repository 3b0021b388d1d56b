"""Wide residual networks (Zagoruyko & Komodakis, 2016), in the field's checkpoint layout.

Module names and shapes are those of RepDistiller and mdistiller, so that their checkpoints load with
``strict=True``. REFILLED's own networks have other shapes (biases; the stride on the second convolution)
and do not load.
"""

from __future__ import annotations

import math
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.network import Features, Stages, through
from gkd.models.layers import PooledAfter, check_images, conv3x3, features_of, pool


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-(dropout)-conv, plus a shortcut.

    The shortcut is the raw input where the widths match. Where they change it is a bare 1×1 convolution
    of the *activated* input: the paper's code shares that activation, and checkpoints depend on it.

    Shapes: ``[B, in_width, H, W] -> [B, out_width, ceil(H / stride), ceil(W / stride)]``.
    """

    def __init__(self, in_width: int, out_width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = conv3x3(in_width, out_width, stride)
        self.bn2 = nn.BatchNorm2d(out_width)
        self.conv2 = conv3x3(out_width, out_width)
        self.dropout = dropout
        self.convShortcut: nn.Conv2d | None = None
        if in_width != out_width:
            self.convShortcut = nn.Conv2d(in_width, out_width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor, normed: Tensor | None = None) -> Tensor:
        """The block's output; ``normed`` is ``bn1(x)`` where the caller has computed it already."""
        active = F.relu(self.bn1(x) if normed is None else normed)
        out = F.relu(self.bn2(self.conv1(active)))
        if self.dropout > 0:
            out = F.dropout(out, self.dropout, self.training)
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        return shortcut + self.conv2(out)


class Stage(nn.Module):
    """Blocks of one width; the first one may change the width and the size.

    Shapes: ``[B, in_width, H, W] -> [B, out_width, ceil(H / stride), ceil(W / stride)]``.
    """

    def __init__(self, in_width: int, out_width: int, num_blocks: int, stride: int, dropout: float) -> None:
        super().__init__()
        blocks = [PreActBlock(in_width, out_width, stride, dropout)]
        blocks += [PreActBlock(out_width, out_width, 1, dropout) for _ in range(num_blocks - 1)]
        self.layer = nn.ModuleList(blocks)

    def entry_norm(self, x: Tensor) -> Tensor:
        """The first block's BatchNorm of the stage's input: the pre-activation tap of the stage before."""
        normed: Tensor = cast(PreActBlock, self.layer[0]).bn1(x)
        return normed

    def forward(self, x: Tensor, normed: Tensor | None = None) -> Tensor:
        """The stage's output; ``normed`` is ``entry_norm(x)`` where the caller has computed it already."""
        for index, block in enumerate(self.layer):
            x = block(x, normed if index == 0 else None)
        return x


class WideResNet(nn.Module):
    """Wide residual network for images of 8×8 pixels and more (Zagoruyko, Komodakis, BMVC 2016).

    A stem and three stages of (depth − 4) / 6 blocks each.

    Initialised as RepDistiller's: convolutions normal with variance 2 / (k² · out), BatchNorm 1 and 0, the
    head's bias 0 and its weight by PyTorch's default.

    Args:
        depth: 6n + 4, n the blocks a stage.
        width: the widening factor; the stages have 16, 32 and 64 times as many channels, the stem 16.
        num_classes: C, the columns of the logits.
        in_channels: channels of the images.
        dropout: probability with which a value between a block's two convolutions is dropped.

    Raises:
        UserError: a depth that is not 6n + 4, a width below 1, or a dropout outside [0, 1).
    """

    min_image_size = 8  # two halvings leave 2×2: at B = 1 BatchNorm needs more than one value a channel

    def __init__(
        self, depth: int, width: int, *, num_classes: int, in_channels: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise UserError(
                f"A wide residual network has a depth of 6n + 4 (10, 16, 22, 28, 34, 40, ...), not {depth}.",
                code="depth-out-of-range",
            )
        if width < 1:
            raise UserError(
                f"A wide residual network has a width of 1 or more, not {width}.", code="width-out-of-range"
            )
        if not 0 <= dropout < 1:
            raise UserError(
                f"dropout is a probability from 0 up to but not including 1, not {dropout}.",
                code="dropout-out-of-range",
            )
        num_blocks = (depth - 4) // 6
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.embedding_dim = 64 * width
        self.conv1 = conv3x3(in_channels, 16)
        self.block1 = Stage(16, 16 * width, num_blocks, 1, dropout)
        self.block2 = Stage(16 * width, 32 * width, num_blocks, 2, dropout)
        self.block3 = Stage(32 * width, 64 * width, num_blocks, 2, dropout)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # BatchNorm starts at 1 and 0 by itself
                fan_out = module.out_channels * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        nn.init.zeros_(self.fc.bias)

    @property
    def head(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def _stem(self, images: Tensor) -> Tensor:
        check_images(images, self.in_channels, self.min_image_size)
        stem: Tensor = self.conv1(images)
        return stem

    def _active(self, last: Tensor) -> Tensor:
        return F.relu(self.bn1(last))

    def stages(self) -> Stages:
        """Callables from images to each map, and from the last map, by its BatchNorm, to the embedding."""
        return (self._stem, self.block1, self.block2, self.block3, PooledAfter(self._active))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, in_channels, H, W]``."""
        logits: Tensor = self.fc(through(self.stages(), images))
        return logits

    def features(self, images: Tensor, *, preact: bool = False) -> Features:
        """Logits, embedding and maps of one forward pass.

        Args:
            images: ``[B, in_channels, H, W]``.
            preact: give ``preact_maps`` too, the three stages' maps after the BatchNorm that follows, before its ReLU.

        Returns:
            Features with ``logits [B, C]``, ``embedding [B, D]`` and four ``maps``, of the stem and the
            three stages: 16, 16k, 32k and 64k channels (k the widening factor) of size H×W, H×W,
            ceil(H/2)×ceil(W/2) and ceil(H/4)×ceil(W/4). RepDistiller's ``is_feat=True`` list is
            ``[*maps, embedding]``. Maps may be negative: no ReLU ends a stage.
        """
        if not preact:
            return features_of(self.stages(), self.fc, images)
        stem = self._stem(images)
        # The BatchNorm that ends a stage is the next stage's first. It is applied once, here, and handed
        # on: a second call in train mode would update its running statistics twice a step.
        first = self.block1(stem)
        first_normed = self.block2.entry_norm(first)
        second = self.block2(first, first_normed)
        second_normed = self.block3.entry_norm(second)
        third = self.block3(second, second_normed)
        third_normed = self.bn1(third)
        pooled = F.relu(third_normed)
        embedding = pool(pooled)
        maps = (stem, first, second, third)
        before = (stem, first_normed, second_normed, third_normed)
        return Features(self.fc(embedding), embedding, maps, before, pooled)
