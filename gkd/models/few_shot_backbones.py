"""Backbones of few-shot learning: four convolutions, and ResNet-12 with DropBlock.

ResNet12's module names and shapes are those of MetaOptNet's lineage (and learn2learn's, but for its prefix
``features.``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.network import Features, Stages
from gkd.models.dropblock import DropBlock
from gkd.models.layers import check_images, conv3x3, features_of, kaiming_over_fan_out
from gkd.models.layers import pool as mean_over_space

Pool = Literal["flatten", "mean"]


_HALVINGS = 4


_SLOPE = 0.1  # of ResNet-12's leaky ReLUs


class Embedding(nn.Module):
    """The embedding of the last map: its mean over space, or all its values as a vector.

    Args:
        pool: ``mean`` for maps of any size; ``flatten`` for those of one image size.
        width: channels of the map.
        image_size: side of the images, which fixes the size of a flattened map; ``mean`` does not read it.

    Raises:
        UserError: an unknown pool, or an image size too small for four halvings.
    """

    def __init__(self, pool: Pool, width: int, image_size: int) -> None:
        super().__init__()
        if pool not in ("flatten", "mean"):
            raise UserError(f"pool is flatten or mean, not {pool!r}.", code="unknown-pool")
        self.side = image_size // 2**_HALVINGS
        if pool == "flatten" and self.side < 1:
            raise UserError(
                f"image_size={image_size} leaves nothing after four halvings; give 16 or more.",
                code="image-size-out-of-range",
            )
        self.pool = pool
        self.image_size = image_size
        self.dim = width * self.side**2 if pool == "flatten" else width

    def forward(self, last: Tensor) -> Tensor:
        """``[B, width, h, w] -> [B, dim]``."""
        if self.pool == "mean":
            return mean_over_space(last)
        height, width = last.shape[2:]
        if (height, width) != (self.side, self.side):
            raise UserError(
                f"The images leave a last map of {height}×{width} and the head was built for {self.side}×{self.side} "
                f"(image_size={self.image_size}); set the network's option image_size to the side of your images, "
                "as in student.options.image_size=32, or its option pool=mean, which takes any size.",
                code="other-image-size",
            )
        return last.flatten(1)


def _activated(layer: nn.Module, x: Tensor) -> Tensor:
    return F.relu(layer(x))


class Conv4(nn.Module):
    """Four blocks of a 3×3 convolution, BatchNorm, ReLU and 2×2 max-pooling (Vinyals et al., NeurIPS 2016).

    The embedding is the flattened last map, so the head is for one image size: 84 pixels unless ``image_size`` says
    otherwise, and 64 channels then give 1600 values (256 at 32, 64 at 28). ``pool="mean"`` takes any size.

    Initialised as learn2learn's: convolutions and head Xavier-uniform, biases 0, BatchNorm's weights uniform in
    [0, 1).

    Args:
        width: channels of the four blocks.
        num_classes: C, the columns of the logits.
        in_channels: channels of the images.
        pool: ``flatten`` the last map, or take its ``mean`` over space.
        image_size: side of the images, in pixels; read by ``flatten`` alone.

    Raises:
        UserError: a width below 1, an unknown pool, or an image size below 16.
    """

    min_image_size = (
        16  # three halvings leave 2×2 for the last BatchNorm, which at B = 1 needs more than one value
    )

    def __init__(
        self,
        width: int,
        *,
        num_classes: int,
        in_channels: int = 3,
        pool: Pool = "flatten",
        image_size: int = 84,
    ) -> None:
        super().__init__()
        if width < 1:
            raise UserError(f"A Conv4 has a width of 1 or more, not {width}.", code="width-out-of-range")
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.embed = Embedding(pool, width, image_size)
        self.embedding_dim = self.embed.dim
        # The ReLU follows the pooling, in `features`: the same values from a quarter of the work.
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(nn.Conv2d(wide, width, 3, padding=1), nn.BatchNorm2d(width), nn.MaxPool2d(2))
            for wide in (in_channels, width, width, width)
        )
        self.classifier = nn.Linear(self.embedding_dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight)

    @property
    def head(self) -> nn.Module:
        """The last linear layer."""
        return self.classifier

    def _first(self, images: Tensor) -> Tensor:
        check_images(images, self.in_channels, self.min_image_size)
        return _activated(self.layer1, images)

    def stages(self) -> Stages:
        """Callables from images to each map, and from the last map to the embedding (``StagedNetwork``)."""
        later = (partial(_activated, layer) for layer in (self.layer2, self.layer3, self.layer4))
        return (self._first, *later, self.embed)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, in_channels, H, W]``."""
        return self.features(images).logits

    def features(self, images: Tensor, *, preact: bool = False) -> Features:
        """Logits, embedding and maps of one forward pass.

        Args:
            images: ``[B, in_channels, H, W]``.
            preact: give ``preact_maps`` too, the maps before their ReLU (after the pooling, with which it commutes).

        Returns:
            Features with ``logits [B, C]``, ``embedding [B, D]`` and four ``maps [B, width, h, w]``, of the blocks
            after their pooling: H/2, H/4, H/8 and H/16, rounded down.

        Raises:
            UserError: images under 16 pixels, or of another size than the flattened embedding is for.
        """
        if not preact:
            return features_of(self.stages(), self.classifier, images)
        check_images(images, self.in_channels, self.min_image_size)
        maps, before, x = [], [], images
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            before.append(layer(x))
            x = F.relu(before[-1])
            maps.append(x)
        embedding = self.embed(x)
        return Features(self.classifier(embedding), embedding, tuple(maps), tuple(before))


class ResNet12Block(nn.Module):
    """Three times conv-BN-leaky ReLU, the last ReLU after the projected input is added; 2×2 max-pooling; dropout.

    Shapes: ``[B, in_width, H, W] -> [B, out_width, floor(H / 2), floor(W / 2)]``.
    """

    def __init__(self, in_width: int, out_width: int, drop: nn.Module) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_width, out_width)
        self.bn1 = nn.BatchNorm2d(out_width)
        self.conv2 = conv3x3(out_width, out_width)
        self.bn2 = nn.BatchNorm2d(out_width)
        self.conv3 = conv3x3(out_width, out_width)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.downsample = nn.Sequential(
            nn.Conv2d(in_width, out_width, 1, bias=False), nn.BatchNorm2d(out_width)
        )
        self.drop = drop

    def before_relu(self, x: Tensor) -> Tensor:
        """The block's output before its last ReLU.

        The lineage's code applies that ReLU first, then pools and drops. A leaky ReLU commutes with both: it keeps
        the order of values, and scaling by a mask that is not negative.
        """
        out = F.leaky_relu(self.bn1(self.conv1(x)), _SLOPE)
        out = F.leaky_relu(self.bn2(self.conv2(out)), _SLOPE)
        out = self.bn3(self.conv3(out)) + self.downsample(x)
        dropped: Tensor = self.drop(F.max_pool2d(out, 2))
        return dropped

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.before_relu(x), _SLOPE)


class ResNet12(nn.Module):
    """ResNet-12 of few-shot learning, with DropBlock (Lee et al., MetaOptNet, CVPR 2019).

    Four blocks of three convolutions. In train mode blocks 1 and 2 end in ordinary dropout, blocks 3 and 4 in
    DropBlock.

    Initialised as learn2learn's: convolutions Kaiming-normal over the fan out, BatchNorm 1 and 0, the head by
    PyTorch's default.

    Args:
        widths: channels of the four blocks.
        num_classes: C, the columns of the logits.
        in_channels: channels of the images.
        drop_rate: of dropout and DropBlock; 0.1, the lineage's, so that a name trains as the papers did. 0 is none.
        block_size: side of DropBlock's squares.
        pool: the ``mean`` of the last map over space, or ``flatten``: 25 times as many values at 84 pixels.
        image_size: side of the images, in pixels; read by ``flatten`` alone.

    Raises:
        UserError: other than four widths, a rate outside [0, 1), a square without a pixel, an unknown pool, or an
            image size below 16.
    """

    min_image_size = (
        16  # three halvings leave 2×2 for the last BatchNorm, which at B = 1 needs more than one value
    )

    def __init__(
        self,
        widths: Sequence[int],
        *,
        num_classes: int,
        in_channels: int = 3,
        drop_rate: float = 0.1,
        block_size: int = 5,
        pool: Pool = "mean",
        image_size: int = 84,
    ) -> None:
        super().__init__()
        if len(widths) != 4:
            raise UserError(
                f"Give four widths, of the four blocks; {len(widths)} were given.", code="not-four-widths"
            )
        if not 0 <= drop_rate < 1:
            raise UserError(
                f"drop_rate is a probability from 0 up to but not including 1, not {drop_rate}.",
                code="dropout-out-of-range",
            )
        if block_size < 1:
            raise UserError(
                f"block_size is a side of 1 pixel or more, not {block_size}.", code="block-size-out-of-range"
            )
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.embed = Embedding(pool, widths[-1], image_size)
        self.embedding_dim = self.embed.dim
        drops = [
            nn.Dropout(drop_rate),
            nn.Dropout(drop_rate),
            DropBlock(drop_rate, block_size),
            DropBlock(drop_rate, block_size),
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(ResNet12Block(in_width, out_width, drop))
            for (in_width, out_width), drop in zip(pairwise((in_channels, *widths)), drops, strict=True)
        )
        self.classifier = nn.Linear(self.embedding_dim, num_classes)
        kaiming_over_fan_out(self)

    @property
    def head(self) -> nn.Module:
        """The last linear layer."""
        return self.classifier

    def _first(self, images: Tensor) -> Tensor:
        check_images(images, self.in_channels, self.min_image_size)
        first: Tensor = self.layer1(images)
        return first

    def stages(self) -> Stages:
        """Callables from images to each map, and from the last map to the embedding (``StagedNetwork``)."""
        return (self._first, self.layer2, self.layer3, self.layer4, self.embed)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, in_channels, H, W]``."""
        return self.features(images).logits

    def features(self, images: Tensor, *, preact: bool = False) -> Features:
        """Logits, embedding and maps of one forward pass.

        Args:
            images: ``[B, in_channels, H, W]``.
            preact: give ``preact_maps`` too, the maps before their last leaky ReLU, of slope 0.1.

        Returns:
            Features with ``logits [B, C]``, ``embedding [B, D]`` and four ``maps [B, widths[i], h, w]``, of the
            blocks after pooling and dropout: H/2, H/4, H/8 and H/16, rounded down. Maps may be negative.

        Raises:
            UserError: images under 16 pixels, or of another size than a flattened embedding is for.
        """
        if not preact:
            return features_of(self.stages(), self.classifier, images)
        check_images(images, self.in_channels, self.min_image_size)
        maps, before, x = [], [], images
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            before.append(layer[0].before_relu(x))  # type: ignore[operator]
            x = F.leaky_relu(before[-1], _SLOPE)
            maps.append(x)
        embedding = self.embed(x)
        return Features(self.classifier(embedding), embedding, tuple(maps), tuple(before))
