"""Features: what a network hands to a loss, from gkd's own networks or tapped from any nn.Module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from gkd.core.errors import UserError


@dataclass(frozen=True)
class Features:
    """One forward pass as the losses see it.

    Attributes:
        logits: ``[B, C]`` class scores before the softmax.
        embedding: ``[B, D]`` the pooled penultimate vector, not normalised.
        maps: activation maps ``[B, C_i, H_i, W_i]`` from shallow to deep; the last one is the last spatial map
            before pooling, or before a 1×1 convolution that widens it for pooling.
    """

    logits: Tensor
    embedding: Tensor
    maps: tuple[Tensor, ...]

    def detach(self) -> Features:
        """The same values outside the graph."""
        return Features(self.logits.detach(), self.embedding.detach(), tuple(m.detach() for m in self.maps))


@runtime_checkable
class Network(Protocol):
    """What gkd asks of a network: logits by calling it, Features by ``features``, and its head."""

    num_classes: int
    embedding_dim: int

    def __call__(self, images: Tensor) -> Tensor: ...

    def features(self, images: Tensor) -> Features: ...

    @property
    def head(self) -> nn.Module: ...


Held = TypeVar("Held", bound=nn.Module)


class Unregistered(Generic[Held]):
    """Holds a module for another one that must not own it.

    As an attribute of an ``nn.Module`` it keeps what it holds out of that module's state dict, parameters, ``train()``,
    ``to()`` and DDP.
    """

    def __init__(self, module: Held) -> None:
        self.module = module


Stages = tuple[Callable[[Tensor], Tensor], ...]


@runtime_checkable
class StagedNetwork(Network, Protocol):
    """A network that can be cut at its maps, to let another network's stage stand in for one of its own."""

    def stages(self) -> Stages:
        """One callable more than ``features(images).maps``; they run the network's own modules in their mode.

        The first leads from images ``[B, C, H, W]`` to ``maps[0]``, the last from ``maps[-1]`` to the embedding
        ``[B, D]``, of which ``head`` gives the logits.
        """
        ...


def through(stages: Iterable[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """What stages or modules, called one after the other, make of a tensor; itself where there are none."""
    for stage in stages:
        x = stage(x)
    return x


def as_network(module: nn.Module) -> Any:
    """The module itself where it is a gkd network.

    Raises:
        UserError: it lacks ``features``, ``head``, ``num_classes`` or ``embedding_dim``.
    """
    if not isinstance(module, Network):
        raise UserError(
            f"A {type(module).__name__} does not say what its features are; wrap it: "
            "gkd.core.tapped.TappedNetwork(module, head=..., maps=[...])."
        )
    return module
