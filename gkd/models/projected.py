"""A network whose last map is projected to the channels of another network's, whose head then fits it (SimKD)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.network import Features, as_network
from gkd.core.tapped import TappedNetwork
from gkd.models.heads import set_head
from gkd.models.layers import conv1x1, conv3x3, pool

PROJECTOR = "projector"  # the option that states it in a weight file


class Projection(BaseModel):
    """Where a student's last map is led to.

    Attributes:
        channels: C_T of the teacher's map, which become the width of the embedding.
        size: height and width of that map; a larger one of the student's is average-pooled to it first. None: as it is.
        factor: by which the bottleneck is narrower than ``channels``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: int = Field(ge=1)
    size: tuple[int, int] | None = None
    factor: int = Field(default=2, ge=1)


class ProjectedNetwork(nn.Module):
    """A network with a bottleneck of three convolutions between its last map and the pooling, and a head behind it.

    ``pooled_map`` and ``embedding`` are of the projected map; the other maps are the network's own. It cannot be cut
    into stages.

    Args:
        network: a gkd network, which loses its head; its classes stay.
        projection: where the map is led to that it averages into its embedding.

    Shapes: ``[B, in_channels, H, W] -> [B, num_classes]``.

    Raises:
        UserError: a network with a head that is not linear, or that averages no map into its embedding.

    Paper:
        Chen, Mei, Zhang, Wang, Feng, Chen: Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022,
        section 3.2; the layers of the projector as in DefangChen/SimKD.
    """

    def __init__(self, network: nn.Module, projection: Projection) -> None:
        super().__init__()
        self.num_classes: int = as_network(network).num_classes
        self.embedding_dim = wide = projection.channels
        self.projection = projection
        channels = _width(network)
        set_head(network, nn.Identity())
        self.network: Any = network
        narrow = max(wide // projection.factor, 1)
        self.projector = nn.Sequential(
            conv1x1(channels, narrow),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            conv3x3(narrow, narrow),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            conv1x1(narrow, wide),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
        )
        self.head = nn.Linear(wide, self.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, C]`` of images ``[B, in_channels, H, W]``."""
        return self.features(images).logits

    def features(self, images: Tensor, **asked: bool) -> Features:
        """Logits, the projected embedding and the network's maps of one forward pass; ``asked`` goes to the network."""
        features: Features = self.network.features(images, **asked)
        if features.pooled_map is None:
            raise _no_map(self.network)
        x, size = features.pooled_map, self.projection.size
        if size is not None and (x.shape[2] > size[0] or x.shape[3] > size[1]):
            x = F.adaptive_avg_pool2d(x, size)
        projected = self.projector(x)
        embedding = pool(projected)
        return Features(
            self.head(embedding), embedding, features.maps, features.preact_maps, pooled_map=projected
        )


def _width(network: Any) -> int:
    """The channels of the map that a network averages into its embedding, which its linear head reads."""
    if not isinstance(network.head, nn.Linear):
        raise UserError(
            f"A projector is put before a linear head, but the network's is a {type(network.head).__name__}; build it "
            "without the option head.",
            code="needs-linear-head",
        )
    if isinstance(network, TappedNetwork) and network.embedding is not None:
        raise UserError(
            "A projector reads the map that is averaged into what the head reads, but taps.embedding names another "
            "embedding; drop it.",
            code="needs-untapped-embedding",
        )
    width: int = network.head.in_features
    return width


def _no_map(network: nn.Module) -> UserError:
    return UserError(
        f"A projector reads the map that is averaged into the embedding, but the {type(network).__name__} is not known "
        "to average one; take a network of gkd's own.",
        code="no-pooled-map",
    )


def checked_projection(options: Any) -> Projection:
    """The option ``projector`` of a network.

    Raises:
        UserError: something else than its keys and numbers.
    """
    if isinstance(options, Projection):
        return options
    try:
        return Projection.model_validate(options)
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, (PROJECTOR, *wrong["loc"])))
        raise UserError(
            f"{where}: {wrong['msg']}; write {{channels: 256, size: [8, 8], factor: 2}}.",
            code="invalid-option",
        ) from None


def projected(network: nn.Module, options: Mapping[str, Any] | Projection) -> ProjectedNetwork:
    """A network with a fresh projector, and a fresh head for the same classes.

    Args:
        network: a gkd network; it is not changed.
        options: of the `Projection`.

    Raises:
        UserError: as of `checked_projection` and `ProjectedNetwork`.
    """
    return ProjectedNetwork(copy.deepcopy(network), checked_projection(options))
