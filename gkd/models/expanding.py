"""Networks that gain an extractor each step: earlier ones are frozen, and one head reads all of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.core.errors import UserError
from gkd.core.network import Features, as_network
from gkd.core.tapped import TappedNetwork
from gkd.models.heads import set_head

EXTRACTORS = "extractors"  # the option that states their number in a weight file


class ExpandedNetwork(nn.Module):
    """Extractors side by side under one linear head: DER's expandable representation, without its pruning.

    The embedding concatenates those of all extractors, the newest last; the maps are those of the newest. All but
    the newest are frozen for good: no stage trains them, and they stay in eval mode, so that neither weights nor
    BatchNorm statistics of theirs change.

    Args:
        extractors: networks without their head (`expand`, `expanded`), all of the same width.
        head: reads their embeddings together.

    Shapes: ``[B, C, H, W] -> [B, num_classes]``; ``features`` gives an embedding ``[B, K · D]`` of K extractors.

    Paper:
        Yan, Xie, He: DER: Dynamically Expandable Representation for Class Incremental Learning, CVPR 2021,
        section 3.2.
    """

    def __init__(self, extractors: Sequence[nn.Module], head: nn.Linear) -> None:
        super().__init__()
        self.extractors = nn.ModuleList(extractors)
        self.head = head
        self.num_classes = head.out_features
        self.embedding_dim = head.in_features
        for extractor in self.frozen:
            extractor.requires_grad_(False).eval()

    @property
    def frozen(self) -> list[nn.Module]:
        """The extractors of earlier steps."""
        return list(self.extractors)[:-1]

    @property
    def newest_dim(self) -> int:
        """D, the entries of the embedding that the newest extractor gives: the last ones."""
        return self.embedding_dim // len(self.extractors)

    def train(self, mode: bool = True) -> ExpandedNetwork:
        """Train mode for the newest extractor alone."""
        super().train(mode)
        for extractor in self.frozen:
            extractor.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of images ``[B, C, H, W]``."""
        earlier = [extractor(images).detach() for extractor in self.frozen]
        logits: Tensor = self.head(torch.cat([*earlier, self.extractors[-1](images)], 1))
        return logits

    def features(self, images: Tensor) -> Features:
        """Logits, the whole embedding and the newest extractor's maps of one forward pass."""
        earlier = [extractor(images).detach() for extractor in self.frozen]
        newest: Features = self.extractors[-1].features(images)  # type: ignore[operator]
        embedding = torch.cat([*earlier, newest.logits], 1)  # without a head these are the embedding
        return Features(self.head(embedding), embedding, newest.maps)


class AuxiliaryHead(nn.Linear):
    """A linear head with a column for all old classes together, the first, and one for each new class.

    It makes the newest part of the embedding separate the new classes from each other and from the old ones.

    Args:
        in_features: D, the newest part of the embedding.
        known: Bool ``[C]``, the student's columns of old classes.

    Shapes: ``[B, D] -> [B, 1 + number of new classes]``.

    Paper:
        Yan, Xie, He, CVPR 2021, section 3.2 (auxiliary loss).
    """

    columns: Tensor

    def __init__(self, in_features: int, known: Tensor) -> None:
        super().__init__(in_features, int((~known).sum()) + 1)
        columns = torch.where(known, 0, (~known).cumsum(0))
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, embedding: Tensor) -> Tensor:
        """Logits in the weight's dtype, float32, also of half-precision embeddings."""
        return super().forward(embedding.to(self.weight.dtype))

    def targets(self, labels: Tensor) -> Tensor:
        """Labels ``[B]``, or distributions over classes ``[B, C]``, in this head's columns."""
        if labels.dim() == 1:
            return self.columns[labels]
        return labels @ F.one_hot(self.columns, self.out_features).to(labels)


@torch.no_grad()
def expand(network: nn.Module, num_new: int) -> ExpandedNetwork:
    """A copy of a network with one more extractor, and with columns for new classes after the old ones.

    The new extractor starts as a copy of the newest. The old classes keep their weights for the old embedding and
    their biases; the rest of the head is initialised afresh, so that the old logits change by what the new
    extractor adds to them.

    Args:
        network: a gkd or tapped network with a linear head, or one that was expanded before; it is not changed.
        num_new: the classes to add.

    Raises:
        UserError: a network that cannot be expanded (`check_expandable`).
    """
    network = copy.deepcopy(network)
    old: Any = network.head
    extractors = (
        list(network.extractors) if isinstance(network, ExpandedNetwork) else [_without_head(network)]
    )
    width = old.in_features // len(extractors)
    head = nn.Linear(old.in_features + width, old.out_features + num_new, bias=old.bias is not None)
    head = head.to(old.weight)
    head.weight[: old.out_features, : old.in_features] = old.weight
    if old.bias is not None:
        head.bias[: old.out_features] = old.bias
    newest = copy.deepcopy(extractors[-1]).requires_grad_(True)
    return ExpandedNetwork([*extractors, newest], head)


def expanded(networks: Sequence[nn.Module]) -> ExpandedNetwork:
    """Networks of one architecture as the extractors of one, to load weights into; their heads are dropped.

    Raises:
        UserError: networks that cannot be expanded (`check_expandable`).
    """
    check_expandable(networks[0])
    old: Any = networks[0].head
    head = nn.Linear(old.in_features * len(networks), old.out_features, bias=old.bias is not None)
    return ExpandedNetwork([_without_head(network) for network in networks], head.to(old.weight))


def check_expandable(network: nn.Module) -> None:
    """Refuse a network that cannot be given a further extractor.

    Raises:
        UserError: a head that is not linear, or a tapped embedding that is not what the head reads.
    """
    head = as_network(network).head
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"The student's head is a {type(head).__name__}, but a method with growth: {{extractor: expand}} widens a "
            "linear one; drop student.options.head.",
            code="needs-linear-head",
        )
    if isinstance(network, TappedNetwork) and network.embedding is not None:
        raise UserError(
            "A method with growth: {extractor: expand} joins what the heads of the extractors read, but "
            "student.taps.embedding names another embedding; drop it.",
            code="needs-untapped-embedding",
        )


def num_extractors(network: nn.Module) -> int:
    """How many extractors a network has: one, unless it was expanded."""
    return len(network.extractors) if isinstance(network, ExpandedNetwork) else 1


def newest_part(network: nn.Module, embedding: Tensor) -> Tensor:
    """The newest extractor's part of an embedding: ``[B, K · D] -> [B, D]``; all of it with one extractor."""
    return embedding[:, -network.newest_dim :] if isinstance(network, ExpandedNetwork) else embedding


def newest_dim(network: nn.Module) -> int:
    """The width of `newest_part`."""
    grown = network if isinstance(network, ExpandedNetwork) else None
    width: int = as_network(network).embedding_dim if grown is None else grown.newest_dim
    return width


def frozen_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that no stage trains: those of earlier steps' extractors."""
    if not isinstance(network, ExpandedNetwork):
        return []
    return [parameter for extractor in network.frozen for parameter in extractor.parameters()]


def _without_head(network: nn.Module) -> nn.Module:
    """The network itself, its head replaced by the identity: it gives what its head read."""
    check_expandable(network)
    set_head(network, nn.Identity())
    return network
