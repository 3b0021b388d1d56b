"""Augmentation of a whole batch on its device, as pure functions, by names that can be chained.

An augmentation maps uint8 images to uint8 images of the same shape. Its random numbers come from
:func:`gkd.data.addressed_random.uniform`, keyed by each sample's number, so a sample's crop does not depend on the
batch it is in.

``crop-flip+cutout(size=0.25)`` is a chain, as :func:`augmentation` reads it: names joined by ``+``, each with its
own options; ``v2:NAME`` is a transform of torchvision's. The border that a crop can show is black: zeros are put around
the *pixels*, before normalisation, as torchvision's RandomCrop does on a PIL image; after normalisation they are
-mean/std, not 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from gkd.core.errors import UserError, unknown
from gkd.data.addressed_random import uniform
from gkd.data.augment.auto_augment import auto_augment, trivial_augment
from gkd.data.augment.colour_jitter import colour_jitter
from gkd.data.augment.library_transform import LibraryTransform
from gkd.data.augment.link import LIBRARY, RANDOM, Options, Value, parse_link
from gkd.data.augment.rand_augment import rand_augment
from gkd.data.augment.random_erasing import random_erasing
from gkd.data.augment.resized_crop import random_resized_crop

# The draw numbers of one view of a sample; those of the other augmentations are in their own files.
# "crop" and "crop-flip" use the same ones: with one seed they crop alike.
_DRAW_TOP, _DRAW_LEFT, _DRAW_FLIP, _DRAW_CUT_TOP, _DRAW_CUT_LEFT = range(5)


class Augmentation(Protocol):
    """The signature of an augmentation, besides its options.

    Args:
        images: uint8 ``[B, C, H, W]``.
        index: int64 ``[B]`` on the same device, each sample's number in its data set.
        seed, stage, epoch, view: the rest of the random numbers' address.

    Returns:
        uint8 ``[B, C, H, W]``, a new tensor unless nothing is done.
    """

    def __call__(
        self, images: Tensor, index: Tensor, *, seed: int, stage: int, epoch: int, view: int = 0
    ) -> Tensor: ...


def crop(images: Tensor, index: Tensor, *, seed: int, stage: int, epoch: int, view: int = 0) -> Tensor:
    """A random crop of the image's own size out of the image with a black border.

    The border is an eighth of the shorter side, rounded down (4 pixels at 32, 1 at 8); each of the
    (2·border + 1)² positions is equally likely.
    """
    height, width = images.shape[2:]
    border = min(height, width) // 8
    top = uniform(seed, stage, epoch, index, view=view, draw=_DRAW_TOP) * (2 * border + 1)
    left = uniform(seed, stage, epoch, index, view=view, draw=_DRAW_LEFT) * (2 * border + 1)
    padded = functional.pad(images, (border, border, border, border))
    # Every possible crop as a view, without copies: [B, top, left, C, H, W]. Indexing the first three
    # dimensions then copies one whole crop a sample; no index tensor of the size of the images is built.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    sample = torch.arange(len(images), device=images.device)
    return crops[sample, top.long(), left.long()]


def flip(images: Tensor, index: Tensor, *, seed: int, stage: int, epoch: int, view: int = 0) -> Tensor:
    """Left and right exchanged with probability one half."""
    chosen = uniform(seed, stage, epoch, index, view=view, draw=_DRAW_FLIP) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def cutout(
    images: Tensor,
    index: Tensor,
    *,
    seed: int,
    stage: int,
    epoch: int,
    view: int = 0,
    size: float = 0.5,
) -> Tensor:
    """A black square around a uniformly drawn pixel; what of it lies outside the image is lost.

    ``size`` is the square's side as a share of the image's shorter side: 0.5 is the paper's 16 pixels at 32
    (CIFAR-10), 0.25 its 8 (CIFAR-100). DeVries & Taylor, arXiv 1708.04552.
    """
    height, width = images.shape[2:]
    side = max(round(size * min(height, width)), 1)
    top = (uniform(seed, stage, epoch, index, view=view, draw=_DRAW_CUT_TOP) * height).long() - side // 2
    left = (uniform(seed, stage, epoch, index, view=view, draw=_DRAW_CUT_LEFT) * width).long() - side // 2
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    rows = (row >= top[:, None]) & (row < top[:, None] + side)
    columns = (column >= left[:, None]) & (column < left[:, None] + side)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


# name -> a function of (images, index, *, seed, stage, epoch, view, and options with defaults)
STEPS: dict[str, Callable[..., Tensor]] = {
    "crop": crop,
    "flip": flip,
    "random-resized-crop": random_resized_crop,
    "rand-augment": rand_augment,
    "trivial-augment": trivial_augment,
    "auto-augment": auto_augment,
    "colour-jitter": colour_jitter,
    "cutout": cutout,
    "random-erasing": random_erasing,
}


# name in a chain -> its steps, in order; options go to the first step
AUGMENTATIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    **{name: (name,) for name in STEPS},
    "crop-flip": ("crop", "flip"),
    "random-resized-crop-flip": ("random-resized-crop", "flip"),
}


_FACTOR = ("a number from 0 to 1", lambda value: 0 <= value <= 1)
# Not steps: gkd.methods.mixup.without_mixup takes them off, because labels are mixed as well.
MIXTURES = {
    "mixup": "Last in a chain: every term is on mixtures of images and of labels. (alpha=1, images=2)",
    "cutmix": "Last in a chain: every term is on images with a box of another image in them, and on labels mixed by "
    "area. (alpha=1, probability=1)",
}


# option -> its range in words, and the test
_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "size": ("a share of the shorter side in (0, 1]", lambda value: 0 < value <= 1),
    "min_area": ("a share of the image's area in (0, 1]", lambda value: 0 < value <= 1),
    "max_ratio": ("a ratio of width to height of 1 or more", lambda value: 1 <= value < float("inf")),
    "ops": ("a number of operations from 1 to 10", lambda value: value in range(1, 11)),
    "magnitude": ("a whole number from 0 to 30", lambda value: value in range(31)),
    "brightness": _FACTOR,
    "contrast": _FACTOR,
    "saturation": _FACTOR,
    "hue": ("a share of the circle from 0 to 0.5", lambda value: 0 <= value <= 0.5),
    "p": ("a probability from 0 to 1", lambda value: 0 <= value <= 1),
    "max_area": ("a share of the image's area in (0, 1]", lambda value: 0 < value <= 1),
    "fill": (
        "random (noise), or a whole number from 0 to 255",
        lambda value: value == RANDOM or value in range(256),
    ),
}


@dataclass(frozen=True)
class Step:
    """One augmentation of a chain, with its options."""

    name: str
    options: Options

    def __call__(self, images: Tensor, index: Tensor, **address: int) -> Tensor:
        return STEPS[self.name](images, index, **address, **self.options)


@dataclass(frozen=True)
class Chain:
    """Augmentations one after the other; itself an :class:`Augmentation`."""

    steps: tuple[Step | LibraryTransform, ...] = ()

    def __call__(
        self, images: Tensor, index: Tensor, *, seed: int, stage: int, epoch: int, view: int = 0
    ) -> Tensor:
        for step in self.steps:
            images = step(images, index, seed=seed, stage=stage, epoch=epoch, view=view)
        return images

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise a UserError where a step cannot be on images ``[C, H, W]``."""
        for step in self.steps:
            if isinstance(step, LibraryTransform):
                step.check(shape)

    @property
    def resized_crop(self) -> Step | None:
        """The first step if it is a random resized crop, by which images on disk are cut when read; else None."""
        first = self.steps[0] if self.steps else None
        return first if isinstance(first, Step) and first.name == "random-resized-crop" else None


def augmentation(text: str) -> Chain:
    """Parse a chain of augmentations, as a config names it.

    Args:
        text: names of :data:`AUGMENTATIONS` joined by ``+``, each perhaps with options: ``crop-flip``,
            ``random-resized-crop-flip(min_area=0.25)``, ``crop-flip+rand-augment(magnitude=5)+cutout``; or transforms
            of ``torchvision.transforms.v2``, ``crop-flip+v2:GaussianBlur(kernel_size=3)``.

    Raises:
        UserError: an unknown name or option, a value out of range, a resized crop that is not the first.
    """
    steps: list[Step | LibraryTransform] = []
    for link in text.split("+"):
        name, options = parse_link(link)
        if name in MIXTURES:
            raise UserError(
                f"The augmentation {text!r} has {name}, which mixes labels too; it comes last in data.augment and "
                f"nowhere else, as in crop-flip+{name}.",
                code="mixup-not-last",
            )
        if name.startswith(LIBRARY):
            before = sum(isinstance(step, LibraryTransform) for step in steps)
            steps.append(LibraryTransform(name, options, before))
            continue
        if name not in AUGMENTATIONS:
            raise UserError(unknown("augmentation", name, AUGMENTATIONS), code="unknown-augmentation")
        names = AUGMENTATIONS[name]
        _check_options(name, names, options)
        steps += [Step(each, options if each == names[0] else {}) for each in names]
    if any(step.name == "random-resized-crop" for step in steps[1:]):
        raise UserError(
            f"The augmentation {text!r} crops and resizes after another step; put random-resized-crop first.",
            code="resized-crop-not-first",
        )
    return Chain(tuple(steps))


def augmentation_summaries() -> dict[str, str]:
    """A one-line description of every name of a chain, with its options' defaults."""
    summaries = {}
    for name, steps in AUGMENTATIONS.items():
        texts = [(inspect.getdoc(STEPS[step]) or "").splitlines()[0] for step in steps]
        about = texts[0] if len(steps) == 1 else ", then ".join(steps) or "The images as they are."
        options = {key: value for step in steps[:1] for key, value in _options(step).items()}
        shown = ", ".join(
            f"{key}={value if isinstance(value, str) else format(value, '.3g')}"
            for key, value in options.items()
        )
        summaries[name] = f"{about} ({shown})" if shown else about
    summaries["v2:NAME"] = (
        "A transform of torchvision.transforms.v2, with its own options: v2:GaussianBlur(kernel_size=3)."
    )
    return summaries | MIXTURES


def _check_options(name: str, steps: tuple[str, ...], options: Options) -> None:
    defaults = _options(steps[0]) if steps else {}
    for key, value in options.items():
        if key not in defaults:
            raise UserError(
                unknown(f"option of the augmentation {name!r}", key, defaults or ["(it has none)"]),
                code="unknown-option",
            )
        words, fits = _RANGES[key]
        if (isinstance(value, str) and not isinstance(defaults[key], str)) or not fits(value):
            raise UserError(
                f"The augmentation {name!r} has {key}={_shown(value)}, which is not {words}.",
                code="option-out-of-range",
            )
    areas = [{**defaults, **options}.get(key) for key in ("min_area", "max_area")]
    if None not in areas and not areas[0] <= areas[1]:  # type: ignore[operator]
        raise UserError(
            f"The augmentation {name!r} has min_area={_shown(areas[0])} above max_area={_shown(areas[1])}; exchange "
            "them.",
            code="option-out-of-range",
        )


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _options(step: str) -> dict[str, Any]:
    """The options that a step takes, with their defaults."""
    shared = inspect.signature(Augmentation.__call__).parameters
    parameters = inspect.signature(STEPS[step]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.name not in shared}
