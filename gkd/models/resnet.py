"""Residual networks for small images (He et al., 2016, section 4.2), in the field's checkpoint layout.

Module names and shapes are those of RepDistiller and mdistiller, so that their checkpoints load with
``strict=True``; torchdistill's resnet20, 56 and 110 have the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.network import Features, Stages, through
from gkd.models.layers import (
    check_images,
    conv3x3,
    features_of,
    kaiming_over_fan_out,
    pool,
    preact_features_of,
)

_THIN = (16, 16, 32, 64)
_WIDE = (32, 64, 128, 256)

# name -> (depth, widths of the stem and the three stages)
RESNETS: dict[str, tuple[int, tuple[int, ...]]] = {
    "resnet8": (8, _THIN),
    "resnet14": (14, _THIN),
    "resnet20": (20, _THIN),
    "resnet32": (32, _THIN),
    "resnet44": (44, _THIN),
    "resnet56": (56, _THIN),
    "resnet110": (110, _THIN),
    "resnet8x4": (8, _WIDE),
    "resnet32x4": (32, _WIDE),
}


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, plus the input or its projection (option B), then ReLU, unless ``relu`` is false.

    Shapes: ``[B, in_width, H, W] -> [B, out_width, ceil(H / stride), ceil(W / stride)]``.
    """

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.relu = True
        self.conv1 = conv3x3(in_width, out_width, stride)
        self.bn1 = nn.BatchNorm2d(out_width)
        self.conv2 = conv3x3(out_width, out_width)
        self.bn2 = nn.BatchNorm2d(out_width)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_width != out_width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_width, out_width, 1, stride=stride, bias=False), nn.BatchNorm2d(out_width)
            )

    def before_relu(self, x: Tensor) -> Tensor:
        """The block's output before its last ReLU."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return out + (x if self.downsample is None else self.downsample(x))

    def forward(self, x: Tensor) -> Tensor:
        out = self.before_relu(x)
        return F.relu(out) if self.relu else out


def _stage(in_width: int, out_width: int, num_blocks: int, stride: int) -> nn.Sequential:
    blocks = [BasicBlock(in_width, out_width, stride)]
    blocks += [BasicBlock(out_width, out_width, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """Residual network for images of 8×8 pixels and more (He et al., CVPR 2016, section 4.2).

    A stem and three stages of (depth − 2) / 6 blocks each.

    Initialised as RepDistiller's: convolutions Kaiming-normal over the fan out, BatchNorm 1 and 0, the
    head by PyTorch's default.

    Args:
        depth: 6n + 2, n the blocks a stage.
        widths: channels of the stem and of the three stages.
        num_classes: C, the columns of the logits.
        in_channels: channels of the images.
        last_relu: whether a ReLU ends the last block; without it the embedding has entries of both signs, as UCIR's
            and PODNet's cosines want them.

    Raises:
        UserError: a depth that is not 6n + 2, or other than four widths.
    """

    min_image_size = 8  # two halvings leave 2×2: at B = 1 BatchNorm needs more than one value a channel

    def __init__(
        self,
        depth: int,
        widths: Sequence[int],
        *,
        num_classes: int,
        in_channels: int = 3,
        last_relu: bool = True,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise UserError(
                f"A residual network has a depth of 6n + 2 (8, 14, 20, 32, 56, ...), not {depth}.",
                code="depth-out-of-range",
            )
        if len(widths) != 4:
            raise UserError(
                f"Give four widths, of the stem and the three stages; {len(widths)} were given.",
                code="not-four-widths",
            )
        num_blocks = (depth - 2) // 6
        stem, first, second, third = widths
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.embedding_dim = third
        self.conv1 = conv3x3(in_channels, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.layer1 = _stage(stem, first, num_blocks, 1)
        self.layer2 = _stage(first, second, num_blocks, 2)
        self.layer3 = _stage(second, third, num_blocks, 2)
        self.layer3[-1].relu = last_relu  # type: ignore[assignment]
        self.fc = nn.Linear(third, num_classes)
        kaiming_over_fan_out(self)

    @property
    def head(self) -> nn.Module:
        """The last linear layer."""
        return self.fc

    def _stem(self, images: Tensor) -> Tensor:
        check_images(images, self.in_channels, self.min_image_size)
        return F.relu(self.bn1(self.conv1(images)))

    def stages(self) -> Stages:
        """Callables from images to each map, and from the last map to the embedding (``StagedNetwork``)."""
        return (self._stem, self.layer1, self.layer2, self.layer3, pool)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, in_channels, H, W]``."""
        logits: Tensor = self.fc(through(self.stages(), images))
        return logits

    def features(self, images: Tensor, *, preact: bool = False) -> Features:
        """Logits, embedding and maps of one forward pass.

        Args:
            images: ``[B, in_channels, H, W]``.
            preact: give ``preact_maps`` too, the three stages' maps before their last ReLU.

        Returns:
            Features with ``logits [B, C]``, ``embedding [B, D]`` and four ``maps``, of the stem and the
            three stages: ``[B, widths[i], h, w]`` with h = H, H, ceil(H/2), ceil(H/4), and w alike.
            RepDistiller's ``is_feat=True`` list is ``[*maps, embedding]``.
        """
        run = preact_features_of if preact else features_of
        return run(self.stages(), self.fc, images)
