"""How tests derive a network's numbers from its state dict, and numbers that are the same on every machine."""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gkd.models import build_network
from gkd.models.load import put_weights
from gkd.models.weight_causes import Loading
from gkd.storage.weight_sets import WeightFile

Weights = dict[str, Tensor]
# Images and weights -> logits, maps, pre-activation maps
Reference = Callable[[Tensor, Weights], tuple[Tensor, list[Tensor], list[Tensor]]]
# Options of a small vision transformer of timm, for images of 16 pixels.
VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 8, "num_heads": 2}


class Behind(nn.Module):
    """A small classifier with something behind its head ``fc``: what its logits are is said by ``kind``.

    ``plain`` is the head's output alone. The others are built as published networks are: ``mean`` of two heads
    (DeiT, LeViT), ``zero`` their sum where the second starts at 0, ``beside`` both, one after the other, ``scale`` a
    learnt factor that starts at 1 (CLIP's temperature), ``tokens`` the head of every place, averaged, ``plus`` the
    largest of an auxiliary head's places (VOLO), ``function`` the head's weights without calling it, ``dropout``
    behind the head, ``flatten``.
    """

    def __init__(self, kind: str = "plain", num_classes: int = 2, in_channels: int = 1) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.other = nn.Linear(4, num_classes, bias=kind != "zero")
        self.scale = nn.Parameter(torch.ones(()))
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, num_classes)  # the last one, which is tapped
        if kind == "zero":
            nn.init.zeros_(self.other.weight)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images).relu()
        rows = maps.mean(dim=(2, 3))
        if self.kind == "mean":
            return (self.fc(rows) + self.other(rows)) / 2
        if self.kind == "zero":
            return self.fc(rows) + self.other(rows)
        if self.kind == "beside":
            return torch.cat([self.fc(rows), self.other(rows)], dim=1)
        if self.kind == "scale":
            return self.scale * self.fc(rows)
        if self.kind == "tokens":
            return self.fc(maps.flatten(2).transpose(1, 2)).mean(1)
        if self.kind == "plus":
            return self.fc(rows) + 0.5 * self.other(maps.flatten(2).transpose(1, 2)).max(1)[0]
        if self.kind == "function":
            return nn.functional.linear(rows, self.fc.weight, self.fc.bias)
        if self.kind == "dropout":
            return self.drop(self.fc(rows))
        return self.fc(rows).flatten(1) if self.kind == "flatten" else self.fc(rows)


def behind(num_classes: int, in_channels: int, kind: str = "plain") -> nn.Module:
    """``Behind`` as a factory that a config may name."""
    return Behind(kind, num_classes, in_channels)


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
    for preact, before in ((False, []), (True, preacts)):
        out = network.features(images, preact=preact)
        torch.testing.assert_close(out.logits, logits)
        for ours, theirs in zip((*out.maps, *out.preact_maps), (*maps, *before), strict=True):
            torch.testing.assert_close(ours, theirs)


def spread(count: int, seed: int) -> Tensor:
    """``count`` numbers of [0, 1) in float64, from integers alone: the same on every machine."""
    modulus = 2**31
    index = torch.arange(count)
    square = index * index % modulus
    return ((square * 1103515245 + index * 12345 + seed) % modulus).double() / modulus


def fixed_weights(state: Mapping[str, Tensor], renamed: Callable[[str], str] = str) -> Weights:
    """A state dict in float64 whose values follow from its keys and shapes; counters stay.

    Matrices and kernels lie in ± sqrt(6 / fan in), vectors in 0.5 .. 1.5: BatchNorm's defaults would hide a missing
    or swapped entry.

    Args:
        renamed: a key -> the one that its values follow from.
    """
    weights = {}
    for key, value in state.items():
        numbers = spread(value.numel(), zlib.crc32(renamed(key).encode())).view(value.shape)
        if not value.is_floating_point():
            weights[key] = value
        elif value.dim() == 1:
            weights[key] = numbers + 0.5
        else:
            weights[key] = (2 * numbers - 1) * (6 / value[0].numel()) ** 0.5
    return weights


def fixed_images(channels: int, size: int) -> Tensor:
    """Two images of float64 values in ± sqrt(3), ``[2, channels, size, size]``."""
    return (2 * spread(2 * channels * size**2, 0) - 1).view(2, channels, size, size) * 3**0.5


def fingerprint(values: Tensor) -> list[float]:
    """The mean, and the mean with weights of [0, 1) by position: a permutation changes the second."""
    flat = values.detach().double().flatten()
    return [float(flat.mean()), float((flat * spread(flat.numel(), 1)).mean())]


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Load a state dict as that of a torch file that holds it bare."""
    put_weights(network, WeightFile(path, {}, {"": dict(tensors)}, ""), Loading(path, name))
