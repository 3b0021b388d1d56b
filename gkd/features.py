"""Features: what a network hands to a loss, from gkd's own networks or tapped from any nn.Module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gkd.errors import UserError, unknown


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


def as_network(module: nn.Module) -> Any:
    """The module itself where it is a gkd network.

    Raises:
        UserError: it lacks ``features``, ``head``, ``num_classes`` or ``embedding_dim``.
    """
    if not isinstance(module, Network):
        raise UserError(
            f"A {type(module).__name__} does not say what its features are; wrap it: "
            "gkd.features.TappedNetwork(module, head=..., maps=[...])."
        )
    return module


@dataclass(frozen=True)
class Shapes:
    """Shapes of one sample's outputs, as ``Features`` holds them."""

    logits: tuple[int, ...]
    embedding: tuple[int, ...]
    maps: tuple[tuple[int, ...], ...]


@torch.no_grad()
def output_shapes(network: nn.Module, image_shape: Sequence[int]) -> Shapes:
    """What a network gives for one image of ``[C, H, W]``: one pass in eval mode that touches no statistics.

    Every sub-module is left in the mode in which it was.
    """
    like = next(network.parameters())
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        features = as_network(network).features(
            torch.zeros(1, *image_shape, device=like.device, dtype=like.dtype)
        )
    finally:
        for module, mode in modes.items():
            module.training = mode
    return Shapes(
        tuple(features.logits.shape[1:]),
        tuple(features.embedding.shape[1:]),
        tuple(tuple(values.shape[1:]) for values in features.maps),
    )


class TappedNetwork(nn.Module):
    """Any ``nn.Module`` as a gkd network, by naming the module paths to tap.

    The wrapped module's output is the logits. The embedding is the *input* of ``head`` unless
    ``embedding`` names a module, whose output is then used (averaged over space if it is a map).

    Args:
        module: a classifier that maps images ``[B, C, H, W]`` to logits ``[B, num_classes]``.
        head: path of the last linear layer, such as ``"fc"`` or ``"classifier.1"``.
        maps: paths of the modules whose outputs are the activation maps, shallow to deep.
        embedding: path of the module whose output is the embedding; None taps the head's input.

    Raises:
        UserError: a path names no sub-module, or the head has no ``in_features``.
    """

    def __init__(
        self, module: nn.Module, *, head: str, maps: Sequence[str] = (), embedding: str | None = None
    ) -> None:
        super().__init__()
        self.module = module
        self.head_path = head
        known = dict(module.named_modules())
        for path in (head, *maps, *([embedding] if embedding else [])):
            if path not in known:
                raise UserError(unknown("module path", path, (name for name in known if name)))
        head_module = known[head]
        if not isinstance(head_module, nn.Linear):
            raise UserError(
                f"The head {head!r} is a {type(head_module).__name__}; name the path of the last nn.Linear."
            )
        self.num_classes = head_module.out_features
        self.embedding_dim = head_module.in_features
        self._taps: dict[str, Tensor] = {}
        for path in maps:
            known[path].register_forward_hook(partial(self._keep_output, f"map:{path}"))
        if embedding is None:
            head_module.register_forward_pre_hook(self._keep_input)
        else:
            known[embedding].register_forward_hook(partial(self._keep_output, "embedding"))
        self._map_keys = tuple(f"map:{path}" for path in maps)

    @property
    def head(self) -> nn.Module:
        return self.module.get_submodule(self.head_path)

    # Hooks are bound methods, so that a deep copy of the network taps itself, not the original.
    def _keep_output(self, key: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._taps[key] = output

    def _keep_input(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._taps["embedding"] = inputs[0]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.module(images)
        self._taps.clear()  # keep no activation alive between calls
        return logits

    def features(self, images: Tensor) -> Features:
        logits = self.module(images)
        embedding = self._taps["embedding"]
        if embedding.dim() == 4:
            embedding = embedding.mean(dim=(2, 3))
        maps = tuple(self._taps[key] for key in self._map_keys)
        self._taps.clear()
        return Features(logits, embedding, maps)


@dataclass
class Batch:
    """One batch on the training device.

    Attributes:
        images: ``[B, C, H, W]`` float, normalised for the student.
        labels: ``[B]`` int64 columns of the student's label space; of virtual samples distributions over them,
            ``[B, C]``.
        index: ``[B]`` int64, each sample's number in its data set.
        view: what the teacher sees where that differs from ``images`` (another normalisation, a
            privileged or a cached view); None means the same images.
        teacher: the teacher's outputs on these very pixels, where they were computed before.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    view: Tensor | None = None
    teacher: Features | None = None

    @property
    def teacher_images(self) -> Tensor:
        return self.images if self.view is None else self.view
