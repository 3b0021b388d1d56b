"""Check whether a network's logits are what its head makes of its embedding."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gkd.core.network import as_network, in_eval_mode
from gkd.core.tapped import output_shapes

_TOLERANCE = 1e-4  # of the largest logit
_IMAGES = 2


@torch.no_grad()
def head_gives_logits(network: nn.Module, image_shape: Sequence[int]) -> bool:
    """Whether ``head(embedding)`` are the logits, on two random images ``[C, H, W]`` in eval mode.

    Not so where a network has two heads (a distilled DeiT, LeViT), scales what its head gives, or has its embedding
    tapped elsewhere. Neither the network nor the global generator is touched.

    Raises:
        UserError: the network cannot take such images.
    """
    output_shapes(network, image_shape)
    generator = torch.Generator().manual_seed(0)
    like = next(network.parameters())
    images = torch.randn(_IMAGES, *image_shape, generator=generator).to(like)
    # Drawn weights show a second head that starts at 0 and a scale that starts at 1; too large ones show nothing.
    for twin in (_with_drawn_head(network, generator), network):
        logits, of_head = _both(twin, images)
        if isinstance(of_head, Exception) or of_head.shape != logits.shape:
            return False
        if bool(torch.isfinite(logits).all() and torch.isfinite(of_head).all()):
            return bool((of_head - logits).abs().max() <= _TOLERANCE * logits.abs().max())
    return True


def _both(network: nn.Module, images: Tensor) -> tuple[Tensor, Any]:
    """The logits, and the head's of the embedding or the error that it ends in; modes stay as they were."""
    wrapped = as_network(network)
    with in_eval_mode(network):
        features = wrapped.features(images)
        try:
            return features.logits, wrapped.head(features.embedding)
        except Exception as error:  # any error of a module on another module's output
            return features.logits, error


def _with_drawn_head(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """`with_drawn_vectors`, and what is all zero, as some heads start, drawn from a normal distribution."""
    twin = with_drawn_vectors(network, generator)
    for parameter in twin.parameters():
        if not parameter.any():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    return twin


@torch.no_grad()
def with_drawn_vectors(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy in eval mode whose vectors (of BatchNorm, layer scales, biases) lie in 0.5 .. 1.5.

    Many of them start at 0 or nearly so, and then a block that the stages leave out would change nothing.
    """
    twin = copy.deepcopy(network).eval()
    for parameter in twin.parameters():
        if parameter.numel() == max(parameter.shape, default=1):
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return twin
