"""ShuffleNet V1 and V2 for small images, in the field's checkpoint layout.

Module names and shapes are those of RepDistiller and mdistiller, so that their checkpoints load with
``strict=True``. Both begin with a 1×1 convolution to 24 channels instead of the papers' 3×3 of stride 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gkd.core.network import Features, Stages, through
from gkd.models.layers import (
    PooledAfter,
    check_images,
    conv1x1,
    depthwise3x3,
    features_of,
    pool,
    preact_features_of,
    shuffle,
)

_STEM = 24
_NUM_BLOCKS = (4, 8, 4)  # of either network's three stages, the one that halves included
_V1_WIDTHS = (240, 480, 960)
_V1_GROUPS = 3
_V2_WIDTHS = (116, 232, 464)
_V2_LAST = 1024


class GroupedBlock(nn.Module):
    """1×1 grouped conv-BN-ReLU, shuffle, 3×3 depthwise conv-BN-ReLU, 1×1 grouped conv-BN; then the input, then ReLU.

    At stride 1 the input is added; at stride 2 its 3×3 mean is concatenated behind.

    Shapes: ``[B, in_width, H, W] -> [B, out_width, ceil(H / stride), ceil(W / stride)]``.
    """

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        branch_width = out_width - in_width if stride == 2 else out_width  # the input is the rest
        hidden = branch_width // 4
        self.stride = stride
        self.groups = 1 if in_width == _STEM else _V1_GROUPS  # the paper does not group 24 channels
        self.conv1 = conv1x1(in_width, hidden, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = depthwise3x3(hidden, stride)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = conv1x1(hidden, branch_width, groups=_V1_GROUPS)
        self.bn3 = nn.BatchNorm2d(branch_width)

    def before_relu(self, x: Tensor) -> Tensor:
        """The block's output before its last ReLU."""
        out = shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return out + x
        return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.before_relu(x))


class ShuffleNetV1(nn.Module):
    """ShuffleNet with three groups and a 1×1 stem (Zhang et al., CVPR 2018).

    Initialised by PyTorch's defaults, as RepDistiller's.

    Args:
        num_classes: C, the columns of the logits.
        in_channels: channels of the images.
    """

    min_image_size = 9  # three halvings, each rounding up, leave 2×2: what BatchNorm needs at B = 1

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.embedding_dim = _V1_WIDTHS[-1]
        self.conv1 = conv1x1(in_channels, _STEM)
        self.bn1 = nn.BatchNorm2d(_STEM)
        stages, in_width = [], _STEM
        for width, num_blocks in zip(_V1_WIDTHS, _NUM_BLOCKS, strict=True):
            blocks = [GroupedBlock(in_width, width, 2)]
            blocks += [GroupedBlock(width, width, 1) for _ in range(num_blocks - 1)]
            stages.append(nn.Sequential(*blocks))
            in_width = width
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(self.embedding_dim, num_classes)

    @property
    def head(self) -> nn.Module:
        """The last linear layer."""
        return self.linear

    def _stem(self, images: Tensor) -> Tensor:
        check_images(images, self.in_channels, self.min_image_size)
        return F.relu(self.bn1(self.conv1(images)))

    def stages(self) -> Stages:
        """Callables from images to each map, and from the last map to the embedding (``StagedNetwork``)."""
        return (self._stem, self.layer1, self.layer2, self.layer3, pool)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, in_channels, H, W]``."""
        return self.features(images).logits

    def features(self, images: Tensor, *, preact: bool = False) -> Features:
        """Logits, embedding and maps of one forward pass.

        Args:
            images: ``[B, in_channels, H, W]``.
            preact: give ``preact_maps`` too, the three stages' maps before their last ReLU.

        Returns:
            Features with ``logits [B, C]``, ``embedding [B, 960]`` and four ``maps``, of the stem and the three
            stages: 24, 240, 480 and 960 channels of size H×W, H/2, H/4 and H/8, rounded up. RepDistiller's
            ``is_feat=True`` list is ``[*maps, embedding]``.
        """
        run = preact_features_of if preact else features_of
        return run(self.stages(), self.linear, images)


class SplitBlock(nn.Module):
    """One half of the channels kept; the other: 1×1 conv-BN-ReLU, 3×3 depthwise conv-BN, 1×1 conv-BN-ReLU; shuffle.

    Shapes: ``[B, width, H, W] -> [B, width, H, W]``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = depthwise3x3(half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The half that passes unchanged, and the other one before its last ReLU."""
        unchanged, other = x.chunk(2, dim=1)
        other = F.relu(self.bn1(self.conv1(other)))
        other = self.bn2(self.conv2(other))
        return unchanged, self.bn3(self.conv3(other))

    def forward(self, x: Tensor) -> Tensor:
        unchanged, before = self.halves(x)
        return shuffle(torch.cat([unchanged, F.relu(before)], dim=1), 2)


class HalvingBlock(nn.Module):
    """Two branches that halve the size, side by side, then shuffle.

    Shapes: ``[B, in_width, H, W] -> [B, out_width, ceil(H / 2), ceil(W / 2)]``.
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        half = out_width // 2
        self.conv1 = depthwise3x3(in_width, 2)
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv2 = conv1x1(in_width, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(in_width, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = depthwise3x3(half, 2)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn1(self.conv1(x))
        left = F.relu(self.bn2(self.conv2(left)))
        right = F.relu(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        right = F.relu(self.bn5(self.conv5(right)))
        return shuffle(torch.cat([left, right], dim=1), 2)


class ShuffleNetV2(nn.Module):
    """ShuffleNet V2 of width 1 with a 1×1 stem (Ma et al., ECCV 2018).

    Initialised by PyTorch's defaults, as RepDistiller's.

    Args:
        num_classes: C, the columns of the logits.
        in_channels: channels of the images.
    """

    min_image_size = 9  # three halvings, each rounding up, leave 2×2: what BatchNorm needs at B = 1

    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.embedding_dim = _V2_LAST
        self.conv1 = conv1x1(in_channels, _STEM)
        self.bn1 = nn.BatchNorm2d(_STEM)
        stages, in_width = [], _STEM
        for width, num_blocks in zip(_V2_WIDTHS, _NUM_BLOCKS, strict=True):
            blocks = [HalvingBlock(in_width, width), *(SplitBlock(width) for _ in range(num_blocks - 1))]
            stages.append(nn.Sequential(*blocks))
            in_width = width
        self.layer1, self.layer2, self.layer3 = stages
        self.conv2 = conv1x1(in_width, _V2_LAST)
        self.bn2 = nn.BatchNorm2d(_V2_LAST)
        self.linear = nn.Linear(_V2_LAST, num_classes)

    @property
    def head(self) -> nn.Module:
        """The last linear layer."""
        return self.linear

    def _stem(self, images: Tensor) -> Tensor:
        check_images(images, self.in_channels, self.min_image_size)
        return F.relu(self.bn1(self.conv1(images)))

    def _widened(self, last: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(last)))

    def stages(self) -> Stages:
        """Callables from images to each map, and from the last map, by ``conv2``, to the embedding."""
        return (self._stem, self.layer1, self.layer2, self.layer3, PooledAfter(self._widened))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, in_channels, H, W]``."""
        return self.features(images).logits

    def features(self, images: Tensor, *, preact: bool = False) -> Features:
        """Logits, embedding and maps of one forward pass.

        Args:
            images: ``[B, in_channels, H, W]``.
            preact: give ``preact_maps`` too, the three stages' maps before the last ReLU of their last block, and
                before its shuffle, as RepDistiller does: ``shuffle(relu(preact_map), 2)`` is the map.

        Returns:
            Features with ``logits [B, C]``, ``embedding [B, 1024]`` and four ``maps``, of the stem and the three
            stages: 24, 116, 232 and 464 channels of size H×W, H/2, H/4 and H/8, rounded up. The embedding is the
            mean of the last map's 1×1 convolution to 1024 channels. RepDistiller's ``is_feat=True`` list is
            ``[*maps, embedding]``.
        """
        if not preact:
            return features_of(self.stages(), self.linear, images)
        x = self._stem(images)
        maps, before = [x], [x]
        for stage in (self.layer1, self.layer2, self.layer3):
            *blocks, last = stage
            unchanged, computed = last.halves(through(blocks, x))  # type: ignore[operator]
            before.append(torch.cat([unchanged, computed], dim=1))
            x = shuffle(torch.cat([unchanged, F.relu(computed)], dim=1), 2)
            maps.append(x)
        pooled = self._widened(x)
        embedding = pool(pooled)
        return Features(self.linear(embedding), embedding, tuple(maps), tuple(before), pooled)
