"""Features, a network's outputs as the losses read them, and the protocols of networks that give them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from gkd.core.errors import UserError
from gkd.core.short_repr import short_repr


@dataclass(frozen=True)
class Features:
    """A network's outputs in one forward pass.

    Attributes:
        logits: ``[B, C]`` class scores before the softmax.
        embedding: ``[B, D]`` the pooled penultimate vector, not normalised.
        maps: activation maps ``[B, C_i, H_i, W_i]`` from shallow to deep; the last one is the last spatial map
            before pooling, or before a 1×1 convolution that widens it for pooling.
        preact_maps: the same maps before their last activation, where the pass was asked for them; else none.
        pooled_map: the map ``[B, D, H, W]`` whose mean over space is the embedding; None where there is none.
    """

    logits: Tensor
    embedding: Tensor
    maps: tuple[Tensor, ...]
    preact_maps: tuple[Tensor, ...] = ()
    pooled_map: Tensor | None = None

    __repr__ = short_repr

    def detach(self) -> Features:
        """The same values outside the graph."""
        return Features(
            self.logits.detach(),
            self.embedding.detach(),
            tuple(values.detach() for values in self.maps),
            tuple(values.detach() for values in self.preact_maps),
            None if self.pooled_map is None else self.pooled_map.detach(),
        )


@runtime_checkable
class Network(Protocol):
    """The interface of a gkd network: logits by calling it, Features by ``features``, and its head."""

    num_classes: int
    embedding_dim: int

    def __call__(self, images: Tensor) -> Tensor: ...

    def features(self, images: Tensor) -> Features: ...

    @property
    def head(self) -> nn.Module: ...


Held = TypeVar("Held", bound=nn.Module)


class Unregistered(Generic[Held]):
    """A module that is held without being registered as a sub-module.

    As an attribute of an ``nn.Module`` it keeps the held module out of that module's state dict, parameters,
    ``train()``, ``to()`` and DDP.
    """

    def __init__(self, module: Held) -> None:
        self.module = module


Stages = tuple[Callable[[Tensor], Tensor], ...]


@runtime_checkable
class StagedNetwork(Network, Protocol):
    """A network that can be cut at its maps, so that another network's stage can replace one of its own."""

    def stages(self) -> Stages:
        """One callable more than there are maps; they run the network's own modules in their current mode.

        The first leads from images ``[B, C, H, W]`` to ``maps[0]``, the last from ``maps[-1]`` to the embedding
        ``[B, D]``, of which ``head`` gives the logits.
        """
        ...


def through(stages: Iterable[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Call stages or modules one after the other on a tensor; without any, return it unchanged."""
    for stage in stages:
        x = stage(x)
    return x


def as_network(module: nn.Module) -> Any:
    """Return a module that is a gkd network as it is, and refuse any other.

    Raises:
        UserError: it lacks ``features``, ``head``, ``num_classes`` or ``embedding_dim``.
    """
    if not isinstance(module, Network):
        raise UserError(
            f"A {type(module).__name__} does not say what its features are; wrap it: gkd.tap(module, maps=[...]), with "
            "the paths of its maps where a loss reads any.",
            code="not-a-network",
        )
    return module


@contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every sub-module is in the mode in which it was."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


# Names of its own, such as keys and training.
_TAKEN = frozenset([*dir(nn.ModuleDict), *vars(nn.ModuleDict())])


def module_key(name: str) -> str:
    """The key of a ``torch.nn.ModuleDict`` for any name, also for one that torch refuses; two names have two keys."""
    if name and "." not in name and not name.startswith("=") and name not in _TAKEN:
        return name
    return "=" + name.replace("%", "%25").replace(".", "%2E")
