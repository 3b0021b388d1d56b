"""Image sizes that a library's network takes: made for those of the images, or refused with the nearest that work.

They are found by passes on torch's meta device, which computes shapes and no values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gkd.models.external import build_external, made_for_size, size_option

_SEARCHED = 1024  # pixels: larger images are not tried
_STRIDES = {
    16: 2,
    32: 8,
}  # pixels of which networks without a stated patch take multiples -> how many are tried


def options_for_images(
    name: str, options: Mapping[str, Any], image_shape: Sequence[int] | None
) -> dict[str, Any]:
    """The options under which a network takes images of a shape: the given ones, perhaps with that of the image size.

    A transformer of timm or torchvision is made for one size, which its library states, unless an option says another
    (``img_size``, ``image_size``). That is given where the images are of another size, which the network refuses else.

    Args:
        name: the network's.
        options: as the user states them; a size among them is kept.
        image_shape: ``(C, H, W)``; None where it is not known.
    """
    made_for = made_for_size(name)
    if made_for is None or image_shape is None or image_shape[-1] == made_for:
        return dict(options)
    return _sized(name, options, image_shape) or dict(options)


def takes_images(name: str, options: Mapping[str, Any], image_shape: Sequence[int]) -> bool:
    """Whether a network of timm or torchvision is known to take images of the shape ``(C, H, W)``."""
    return _sized(name, options, image_shape) is not None


def nearest_sizes(name: str, options: Mapping[str, Any], image_shape: Sequence[int]) -> tuple[int, ...]:
    """The nearest sides below and above that a network of timm or torchvision takes, of square images.

    Args:
        name, options: of the network.
        image_shape: ``(C, H, W)``, which it refuses.

    Returns:
        Two sides in pixels, one or none, ascending.
    """
    channels, side = image_shape[0], max(image_shape[1:])
    patch = _patch_of(_built(name, options, channels))

    def taken(size: int) -> bool:
        return takes_images(name, options, (channels, size, size))

    tried = {size for step, count in {**_STRIDES, patch: 2}.items() for size in _multiples(side, step, count)}
    tried |= {side << doublings for doublings in range(1, 11) if side << doublings <= _SEARCHED}
    stated = made_for_size(name)
    if stated is not None:
        tried.add(int(options.get(size_option(name) or "", stated)))
    below = sorted((size for size in tried if 0 < size < side), reverse=True)
    above = sorted(size for size in tried if size > side)
    found = (_first_taken(taken, side, sizes, patch) for sizes in (below, above))
    return tuple(size for size in found if size is not None)


def _first_taken(taken: Callable[[int], bool], side: int, sizes: Iterable[int], patch: int) -> int | None:
    """The first of the sizes, further and further from ``side``, that is taken, and then the nearest on its way."""
    refused = side
    for size in sizes:
        if not taken(size):
            refused = size
            continue
        while patch == 1 and abs(size - refused) > 1:
            middle = (size + refused) // 2
            if taken(middle):
                size = middle
            else:
                refused = middle
        return size
    return None


def _multiples(side: int, step: int, count: int) -> list[int]:
    """So many multiples of a step on either side."""
    return [(side // step + number) * step for number in range(1 - count, count + 1)]


def _sized(name: str, options: Mapping[str, Any], image_shape: Sequence[int]) -> dict[str, Any] | None:
    """The options under which the network takes the images; None where there are none."""
    if _passes(_built(name, options, image_shape[0]), image_shape):
        return dict(options)
    option, square = size_option(name), image_shape[1] == image_shape[2]
    if option is None or option in options or not square:
        return None
    sized = {**options, option: image_shape[-1]}
    module = _built(name, sized, image_shape[0])
    # Made for a size that its patches do not divide, a network leaves out the last rows and columns.
    whole = image_shape[-1] % _patch_of(module) == 0
    return sized if whole and _passes(module, image_shape) else None


def _built(name: str, options: Mapping[str, Any], channels: int) -> nn.Module | None:
    """The network without values; None where it cannot be built so."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return build_external(name, num_classes=2, in_channels=channels, options=options).eval()
    except Exception:  # a library's own complaint about a size, or an operation that meta tensors do not have
        return None


@torch.no_grad()
def _passes(module: nn.Module | None, image_shape: Sequence[int]) -> bool:
    if module is None:
        return False
    try:
        with torch.device("meta"):
            return bool(module(torch.zeros(1, *image_shape)).numel())
    except Exception:  # whatever a library says of a size; its text is read where the network itself is tried
        return False


def _patch_of(module: nn.Module | None) -> int:
    """The side of a transformer's patches in pixels; 1 of a network that states none."""
    tower = getattr(module, "visual", module)  # of an open_clip network
    if hasattr(tower, "attnpool"):
        return 32  # pixels a position of its ResNet's last map, of which its pooling has a fixed number
    body = getattr(tower, "trunk", tower)
    embedding = getattr(body, "patch_embed", getattr(body, "embeds", body))
    size = getattr(embedding, "patch_size", 1)
    size = max(size) if isinstance(size, (tuple, list)) else size
    return size if isinstance(size, int) and size > 0 else 1
