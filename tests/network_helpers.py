"""How tests derive a network's numbers from its state dict, without any module."""

from collections.abc import Callable

import torch
from torch import Tensor

from gkd.models import build_network

Weights = dict[str, Tensor]
# Images and weights -> logits, maps, pre-activation maps
Reference = Callable[[Tensor, Weights], tuple[Tensor, list[Tensor], list[Tensor]]]


def batch_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    mean, variance, scale, shift = (
        weights[f"{name}.{key}"].view(1, -1, 1, 1)
        for key in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift


def assert_equals(reference: Reference, name: str) -> None:
    """A network by name gives the logits, maps and pre-activation maps of the reference, in float64."""
    torch.manual_seed(0)
    network = build_network(name, num_classes=7).double()
    for entry in network.state_dict().values():
        if entry.is_floating_point() and entry.dim() == 1:
            entry.uniform_(0.5, 1.5)  # BatchNorm's defaults would hide a missing or swapped entry
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    logits, maps, preacts = reference(images, network.state_dict())
    network.eval()
    for preact, expected in ((False, maps), (True, preacts)):
        out = network.features(images, preact=preact)
        torch.testing.assert_close(out.logits, logits)
        for ours, theirs in zip(out.maps, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
