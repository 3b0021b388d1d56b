"""VGG with BatchNorm and one linear layer (Simonyan & Zisserman, 2015), in the field's checkpoint layout.

Module names and shapes are those of RepDistiller and mdistiller, so that their checkpoints load with
``strict=True``.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.network import Features, Stages
from gkd.models.layers import check_images, features_of, kaiming_over_fan_out, pool

_WIDTHS = (64, 128, 256, 512, 512)
# depth -> convolutions of the five blocks
_NUM_CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
# Side from which the fourth map is halved before the last block: that of images of 64 pixels, for
# H // 2 // 2 // 2 = H // 8 is 8 or more where H is 64 or more.
_FOURTH_POOL_FROM = 8


def _block(in_width: int, width: int, num_convolutions: int) -> nn.Sequential:
    """``num_convolutions`` times conv-BN-ReLU, without the last ReLU, which follows the tap."""
    layers: list[nn.Module] = []
    for _ in range(num_convolutions):
        layers += [nn.Conv2d(in_width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        in_width = width
    return nn.Sequential(*layers[:-1])


class VGG(nn.Module):
    """VGG with BatchNorm and a single linear layer, for small images (Simonyan, Zisserman, ICLR 2015).

    Five blocks, of 64, 128, 256, 512 and 512 channels. A max-pooling halves the size (rounding down) after each
    of the first three; before the last one where height and width are 64 or more. At 32×32 and at 64×64 that is
    RepDistiller's and mdistiller's network, which pool the fourth time at a height of exactly 64 and at no other.

    Initialised as RepDistiller's: convolutions Kaiming-normal over the fan out, their biases 0, BatchNorm 1 and
    0, the head normal with a standard deviation of 0.01, its bias 0.

    Args:
        depth: 8, 11, 13, 16 or 19; the published names count two linear layers that are not here.
        num_classes: C, the columns of the logits.
        in_channels: channels of the images.

    Raises:
        UserError: another depth.
    """

    min_image_size = 16  # three halvings leave 2×2: at B = 1 BatchNorm needs more than one value a channel

    def __init__(self, depth: int, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if depth not in _NUM_CONVOLUTIONS:
            allowed = ", ".join(map(str, _NUM_CONVOLUTIONS))
            raise UserError(f"A VGG has one of the depths {allowed}, not {depth}.", code="depth-out-of-range")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.embedding_dim = _WIDTHS[-1]
        in_widths = (in_channels, *_WIDTHS[:-1])
        self.block0, self.block1, self.block2, self.block3, self.block4 = (
            _block(*sizes) for sizes in zip(in_widths, _WIDTHS, _NUM_CONVOLUTIONS[depth], strict=True)
        )
        self.classifier = nn.Linear(_WIDTHS[-1], num_classes)
        kaiming_over_fan_out(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    @property
    def head(self) -> nn.Module:
        """The last linear layer."""
        return self.classifier

    def _before_relu(self, index: int, x: Tensor) -> Tensor:
        """A block's map before its ReLU, from the map before it: the images for block 0."""
        if 1 <= index <= 3 or (index == 4 and min(x.shape[2:]) >= _FOURTH_POOL_FROM):
            x = F.max_pool2d(x, 2)
        before: Tensor = (self.block0, self.block1, self.block2, self.block3, self.block4)[index](x)
        return before

    def _map(self, index: int, x: Tensor) -> Tensor:
        if index == 0:
            check_images(x, self.in_channels, self.min_image_size)
        return F.relu(self._before_relu(index, x))

    def stages(self) -> Stages:
        """Callables from images to each map, by the pooling before it, and from the last map to the embedding."""
        return (*(partial(self._map, index) for index in range(len(_WIDTHS))), pool)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, in_channels, H, W]``."""
        return self.features(images).logits

    def features(self, images: Tensor, *, preact: bool = False) -> Features:
        """Logits, embedding and maps of one forward pass.

        Args:
            images: ``[B, in_channels, H, W]``.
            preact: give ``preact_maps`` too, the maps of all blocks but the first before their last ReLU.

        Returns:
            Features with ``logits [B, C]``, ``embedding [B, 512]`` and five ``maps``, of the five blocks before
            they are pooled: 64, 128, 256, 512 and 512 channels of size H×W, H/2, H/4, H/8 and H/8 (H/16 from 64
            pixels on), rounded down. RepDistiller's ``is_feat=True`` list is ``[*maps, embedding]``.
        """
        if not preact:
            return features_of(self.stages(), self.classifier, images)
        x = self._map(0, images)
        maps, before = [x], [x]
        for index in range(1, len(_WIDTHS)):
            before.append(self._before_relu(index, x))
            x = F.relu(before[-1])
            maps.append(x)
        embedding = pool(x)
        return Features(self.classifier(embedding), embedding, tuple(maps), tuple(before), x)
