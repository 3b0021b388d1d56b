"""ResNet18, 34 and 50 with a stem for small images (He et al., 2016), in the field's checkpoint layout.

Module names and shapes are those of RepDistiller and mdistiller (``shortcut``, ``linear``), so that their
checkpoints load with ``strict=True``. torchvision's networks of these names have another stem and other keys.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.network import Features, Stages
from gkd.models.layers import (
    check_images,
    conv1x1,
    conv3x3,
    features_of,
    kaiming_over_fan_out,
    pool,
    preact_features_of,
)

_WIDTHS = (64, 128, 256, 512)
# depth -> blocks of the four stages
_NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def _shortcut(in_width: int, out_width: int, stride: int) -> nn.Sequential:
    """The identity, or where size or width change a projection (option B)."""
    if stride == 1 and in_width == out_width:
        return nn.Sequential()
    convolution = nn.Conv2d(in_width, out_width, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_width))


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, plus the shortcut, then ReLU.

    Shapes: ``[B, in_width, H, W] -> [B, width, ceil(H / stride), ceil(W / stride)]``.
    """

    expansion = 1

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_width, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(in_width, width, stride)

    def before_relu(self, x: Tensor) -> Tensor:
        """The block's output before its last ReLU."""
        out = F.relu(self.bn1(self.conv1(x)))
        summed: Tensor = self.bn2(self.conv2(out)) + self.shortcut(x)
        return summed

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.before_relu(x))


class Bottleneck(nn.Module):
    """1×1 conv-BN-ReLU, 3×3 conv-BN-ReLU with the stride, 1×1 conv-BN, plus the shortcut, then ReLU.

    Shapes: ``[B, in_width, H, W] -> [B, 4 · width, ceil(H / stride), ceil(W / stride)]``.
    """

    expansion = 4

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_width, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, 4 * width)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(in_width, 4 * width, stride)

    def before_relu(self, x: Tensor) -> Tensor:
        """The block's output before its last ReLU."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        summed: Tensor = self.bn3(self.conv3(out)) + self.shortcut(x)
        return summed

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.before_relu(x))


class ImageNetResNet(nn.Module):
    """ImageNet's residual network behind a 3×3 stem for small images (He et al., CVPR 2016, table 1).

    A stem of stride 1 without pooling, and four stages that halve the size three times. Depths of 50 have
    bottlenecks, with the stride on the 3×3 convolution.

    Initialised as RepDistiller's: convolutions Kaiming-normal over the fan out, BatchNorm 1 and 0, the
    head by PyTorch's default.

    Args:
        depth: 18, 34 or 50.
        num_classes: C, the columns of the logits.
        in_channels: channels of the images.

    Raises:
        UserError: another depth.
    """

    min_image_size = 9  # three halvings, each rounding up, leave 2×2: what BatchNorm needs at B = 1

    def __init__(self, depth: int, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if depth not in _NUM_BLOCKS:
            raise UserError(
                f"ImageNet's residual networks have a depth of 18, 34 or 50 here, not {depth}.",
                code="depth-out-of-range",
            )
        block = Bottleneck if depth == 50 else BasicBlock
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.embedding_dim = _WIDTHS[-1] * block.expansion
        self.conv1 = conv3x3(in_channels, 64)
        self.bn1 = nn.BatchNorm2d(64)
        stages, in_width = [], 64
        for width, num_blocks, stride in zip(_WIDTHS, _NUM_BLOCKS[depth], (1, 2, 2, 2), strict=True):
            out_width = width * block.expansion
            blocks = [block(in_width, width, stride)]
            blocks += [block(out_width, width, 1) for _ in range(num_blocks - 1)]
            stages.append(nn.Sequential(*blocks))
            in_width = out_width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.linear = nn.Linear(self.embedding_dim, num_classes)
        kaiming_over_fan_out(self)

    @property
    def head(self) -> nn.Module:
        """The last linear layer."""
        return self.linear

    def _stem(self, images: Tensor) -> Tensor:
        check_images(images, self.in_channels, self.min_image_size)
        return F.relu(self.bn1(self.conv1(images)))

    def stages(self) -> Stages:
        """Callables from images to each map, and from the last map to the embedding (``StagedNetwork``)."""
        return (self._stem, self.layer1, self.layer2, self.layer3, self.layer4, pool)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, in_channels, H, W]``."""
        return self.features(images).logits

    def features(self, images: Tensor, *, preact: bool = False) -> Features:
        """Logits, embedding and maps of one forward pass.

        Args:
            images: ``[B, in_channels, H, W]``.
            preact: give ``preact_maps`` too, the four stages' maps before their last ReLU.

        Returns:
            Features with ``logits [B, C]``, ``embedding [B, D]`` and five ``maps``, of the stem (64 channels)
            and the four stages (64, 128, 256 and 512, four times as many at depth 50), of size H×W twice, then
            halved three times, rounding up. RepDistiller's ``is_feat=True`` list is ``[*maps, embedding]``.
        """
        run = preact_features_of if preact else features_of
        return run(self.stages(), self.linear, images)
