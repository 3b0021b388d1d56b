"""torchvision's functions on images, imported where the first is used."""

from __future__ import annotations

from types import ModuleType


def image_operations() -> ModuleType:
    """Return ``torchvision.transforms.v2.functional``.

    Its import takes as long as that of torch, and most commands change no image by it.
    """
    from torchvision.transforms.v2 import functional

    return functional
