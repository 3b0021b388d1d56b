"""torchvision's image operations, imported on first use."""

from __future__ import annotations

from types import ModuleType


def image_operations() -> ModuleType:
    """Return ``torchvision.transforms.v2.functional``.

    Its import takes as long as that of torch, and most commands need none of it.
    """
    from torchvision.transforms.v2 import functional

    return functional
