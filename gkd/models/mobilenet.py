"""MobileNets: version 2 in the field's checkpoint layout, and version 1 as REFILLED trains it.

MobileNetV2's module names and shapes are those of RepDistiller and mdistiller (half width) and of SAKD's code
(full width), MobileNet's those of REFILLED's code, so that their checkpoints load with ``strict=True``.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.network import Features, Stages
from gkd.models.layers import (
    PooledAfter,
    check_images,
    conv1x1,
    conv3x3,
    cut,
    depthwise3x3,
    features_of,
    kaiming_over_fan_out,
    pool,
)

# MobileNetV2 at width 1, for each stage: expansion, channels, blocks, stride of the first block
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_TAPPED_STAGES = (1, 2, 4, 6)

# MobileNet at width 1: channels of the stem and of the blocks, and the blocks of stride 2
_WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
_HALVING_BLOCKS = (1, 3, 5, 11)
_TAPPED_BLOCKS = (2, 4, 10, 12)


def _check_width(width: float) -> None:
    if not width >= 0.1:
        raise UserError(
            f"A MobileNet has a width of 0.1 or more, such as 0.25, 0.5 or 1, not {width}.",
            code="width-out-of-range",
        )


class InvertedResidual(nn.Module):
    """1×1 conv-BN-ReLU that widens, 3×3 depthwise conv-BN-ReLU, 1×1 conv-BN; plus the input where shapes agree.

    Shapes: ``[B, in_width, H, W] -> [B, out_width, ceil(H / stride), ceil(W / stride)]``.
    """

    def __init__(self, in_width: int, out_width: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_width * expansion
        self.residual = stride == 1 and in_width == out_width
        self.conv = nn.Sequential(
            conv1x1(in_width, hidden),  # there at expansion 1 too, unlike in the paper
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            depthwise3x3(hidden, stride),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            conv1x1(hidden, out_width),
            nn.BatchNorm2d(out_width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """MobileNetV2 with one halving less than for ImageNet (Sandler et al., CVPR 2018).

    The stem and three stages have stride 2, so that 32×32 ends in 2×2; the activations are ReLU, not ReLU6.
    ``MobileNetV2`` by name is the CIFAR-100 benchmark's half width, ``MobileNetV2_1_0`` the full width
    that SAKD's code calls MobileNetV2: their accuracies do not compare.

    Initialised as RepDistiller's: convolutions Kaiming-normal over the fan out, BatchNorm 1 and 0, the head
    normal with a standard deviation of 0.01, its bias 0.

    Args:
        width: factor of all channels (rounded down) but the last 1280, which only a width above 1 multiplies.
        num_classes: C, the columns of the logits.
        in_channels: channels of the images.

    Raises:
        UserError: a width below 0.1.
    """

    min_image_size = 17  # four halvings, each rounding up, leave 2×2: what BatchNorm needs at B = 1

    def __init__(self, width: float, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        _check_width(width)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.embedding_dim = int(1280 * max(width, 1.0))
        in_width = int(32 * width)
        self.conv1 = nn.Sequential(conv3x3(in_channels, in_width, 2), nn.BatchNorm2d(in_width), nn.ReLU())
        self.blocks = nn.ModuleList()
        for expansion, channels, num_blocks, stride in _STAGES:
            out_width = int(channels * width)
            blocks = [InvertedResidual(in_width, out_width, stride, expansion)]
            blocks += [InvertedResidual(out_width, out_width, 1, expansion) for _ in range(num_blocks - 1)]
            self.blocks.append(nn.Sequential(*blocks))
            in_width = out_width
        last = self.embedding_dim
        self.conv2 = nn.Sequential(conv1x1(in_width, last), nn.BatchNorm2d(last), nn.ReLU())
        head = nn.Linear(last, num_classes)
        self.classifier = nn.Sequential(head)
        kaiming_over_fan_out(self)
        nn.init.normal_(head.weight, 0.0, 0.01)
        nn.init.zeros_(head.bias)

    @property
    def head(self) -> nn.Module:
        """The last linear layer."""
        return self.classifier[0]

    def _stem(self, images: Tensor) -> Tensor:
        check_images(images, self.in_channels, self.min_image_size)
        stem: Tensor = self.conv1(images)
        return stem

    def stages(self) -> Stages:
        """Callables from images to each map, and from the last map, by ``conv2``, to the embedding."""
        return (self._stem, *cut(self.blocks, _TAPPED_STAGES), PooledAfter(self.conv2))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, in_channels, H, W]``."""
        return self.features(images).logits

    def features(self, images: Tensor, *, preact: bool = False) -> Features:
        """Logits, embedding and maps of one forward pass.

        Args:
            images: ``[B, in_channels, H, W]``.
            preact: give ``preact_maps`` too, which are the maps: a stage ends in a linear convolution, not in a ReLU.

        Returns:
            Features with ``logits [B, C]``, ``embedding [B, D]`` and five ``maps``, of the stem and of the stages
            2, 3, 5 and 7: 32, 24, 32, 96 and 320 channels times the width, of size H/2, H/2, H/4, H/8 and H/16,
            rounded up. The embedding is the mean of the last map's 1×1 convolution to D channels.
            RepDistiller's ``is_feat=True`` list is ``[*maps, embedding]``. All maps but the stem's may be negative.
        """
        features = features_of(self.stages(), self.classifier, images)
        return replace(features, preact_maps=features.maps) if preact else features


class SeparableBlock(nn.Module):
    """3×3 depthwise conv-BN-ReLU, 1×1 conv-BN-ReLU.

    Shapes: ``[B, in_width, H, W] -> [B, out_width, ceil(H / stride), ceil(W / stride)]``.
    """

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = depthwise3x3(in_width, stride)
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv2 = conv1x1(in_width, out_width)
        self.bn2 = nn.BatchNorm2d(out_width)

    def before_relu(self, x: Tensor) -> Tensor:
        """The block's output before its last ReLU."""
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.before_relu(x))


class MobileNet(nn.Module):
    """MobileNet for images of 17×17 pixels and more, as REFILLED trains it (Howard et al., 2017).

    A stem of stride 2 and thirteen depthwise-separable blocks that halve the size four times. Of images up to
    32 pixels one pixel is left: such a network trains on batches of two images and more.

    Initialised by PyTorch's defaults, as REFILLED's.

    Args:
        width: factor of all channels, rounded down.
        num_classes: C, the columns of the logits.
        in_channels: channels of the images.

    Raises:
        UserError: a width below 0.1.
    """

    min_image_size = 17  # four halvings leave 2×2 for the fifth; REFILLED takes CIFAR's 32 pixels as well

    def __init__(self, width: float, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        _check_width(width)
        stem, *widths = (int(channels * width) for channels in _WIDTHS)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.embedding_dim = widths[-1]
        self.conv1 = conv3x3(in_channels, stem, 2)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layers = nn.Sequential(
            *(
                SeparableBlock(in_width, out_width, 2 if index in _HALVING_BLOCKS else 1)
                for index, (in_width, out_width) in enumerate(pairwise((stem, *widths)))
            )
        )
        self.fc = nn.Linear(self.embedding_dim, num_classes)

    @property
    def head(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def _stem(self, images: Tensor) -> Tensor:
        check_images(images, self.in_channels, self.min_image_size)
        return F.relu(self.bn1(self.conv1(images)))

    def stages(self) -> Stages:
        """Callables from images to each map, and from the last map to the embedding (``StagedNetwork``)."""
        return (self._stem, *cut(self.layers, _TAPPED_BLOCKS), pool)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, in_channels, H, W]``."""
        return self.features(images).logits

    def features(self, images: Tensor, *, preact: bool = False) -> Features:
        """Logits, embedding and maps of one forward pass.

        Args:
            images: ``[B, in_channels, H, W]``.
            preact: give ``preact_maps`` too, the blocks' maps before their last ReLU.

        Returns:
            Features with ``logits [B, C]``, ``embedding [B, D]`` and five ``maps``: of the stem, and of the last
            block of each size that follows: 32, 128, 256, 512 and 1024 channels times the width, of size H/2,
            H/4, H/8, H/16 and H/32, rounded up. REFILLED taps the embedding alone.
        """
        if not preact:
            return features_of(self.stages(), self.fc, images)
        x = self._stem(images)
        maps, before = [x], [x]
        for index, block in enumerate(self.layers):
            if index in _TAPPED_BLOCKS:
                before.append(block.before_relu(x))  # type: ignore[operator]
                x = F.relu(before[-1])
                maps.append(x)
            else:
                x = block(x)
        embedding = pool(x)
        return Features(self.fc(embedding), embedding, tuple(maps), tuple(before), x)
