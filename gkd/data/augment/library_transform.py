"""Transforms of ``torchvision.transforms.v2`` by name, whose random numbers are functions of each sample's address.

torchvision draws from torch's global generator. Here that generator is seeded anew for every sample, from a hash of its
address, and put back afterwards: a sample's result is what torchvision gives for it alone under
``torch.manual_seed(sample_seeds(...))``, in whatever batch it is. So the transform sees one image at a time. On another
device than a CPU, the parameters are drawn in this way, and samples that drew the same go through the transform
together, on the device; transforms that draw while they change pixels, or that do all in one, run on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gkd.core.errors import UserError, unknown
from gkd.core.user_code import told
from gkd.data.addressed_random import PURPOSE_AUGMENT, hashed, key_of
from gkd.data.augment.link import LIBRARY, Value

_FIRST_DRAW = 4096  # the draw number of a chain's first transform; the next ones follow
_TRIES = 8  # seeds under which a transform is tried on an image of the data's shape

_JOINED = "it takes other transforms, which a name cannot give; join names by +"
_SEVERAL = "it gives several images of one"
_MARKS = "it changes boxes or key points, and an image here has none"
# Classes of torchvision that can be no augmentation of one image, and the reason.
REFUSED = {
    "CutMix": "it mixes several images and their labels; end the chain in cutmix",
    "MixUp": "it mixes several images and their labels; end the chain in mixup",
    "Compose": _JOINED,
    "RandomApply": _JOINED,
    "RandomChoice": _JOINED,
    "RandomOrder": _JOINED,
    "Lambda": "it takes a function, which a config cannot give",
    "FiveCrop": _SEVERAL,
    "TenCrop": _SEVERAL,
    "SanitizeBoundingBoxes": _MARKS,
    "SanitizeKeyPoints": _MARKS,
    "RandomIoUCrop": _MARKS,
    "UniformTemporalSubsample": "it is for videos",
}


class LibraryTransform:
    """One transform of torchvision's in a chain; itself an :class:`gkd.data.augment.chain.Augmentation`.

    Args:
        name: ``v2:NAME``.
        options: of the class; numbers, words, true or false, none, and tuples of those.
        number: how many transforms of torchvision's stand before it in the chain; each draws its own numbers.

    Raises:
        UserError: an unknown name, options that the class refuses, a class that can be no augmentation.
    """

    def __init__(self, name: str, options: Mapping[str, Value], number: int = 0) -> None:
        self.name, self.options, self.number = name, options, number
        self._transform = _build(name, options)
        self._together: dict[str, bool] = {}  # kind of device -> whether samples go through in groups

    def __call__(
        self, images: Tensor, index: Tensor, *, seed: int, stage: int, epoch: int, view: int = 0
    ) -> Tensor:
        seeds = sample_seeds(index, seed=seed, stage=stage, epoch=epoch, view=view, number=self.number)
        with _generator_kept():
            if self._goes_together(images):
                return self._in_groups(images, seeds)
            pixels = images.to("cpu", copy=True)  # some transforms change what they are given (inplace=true)
            results = [self._alone(image, seed) for image, seed in zip(pixels, seeds, strict=True)]
        return torch.stack(results).to(images.device) if results else images.clone()

    def check(self, shape: tuple[int, ...]) -> None:
        """Try the transform on an image ``[C, H, W]``.

        Raises:
            UserError: it fails, or gives anything but uint8 pixels of that shape.
        """
        words = torch.arange(torch.Size(shape).numel()) * 2654435761
        image = (words >> 8).to(torch.uint8).reshape(shape)
        with _generator_kept():
            for seed in range(_TRIES):
                self._alone(image, seed)

    def _alone(self, image: Tensor, seed: int) -> Tensor:
        """The result for one image ``[C, H, W]`` on the CPU under a seed of the global generator."""
        torch.default_generator.manual_seed(seed)
        try:
            result = self._transform(image)
        except Exception as error:
            raise UserError(
                f"The augmentation {self.name!r} fails on images {list(image.shape)}: {told(error)}",
                code="library-transform-fails",
            ) from error
        if not isinstance(result, Tensor) or result.dtype != torch.uint8 or result.shape != image.shape:
            shown = type(result).__name__
            if isinstance(result, Tensor):
                shown = f"{str(result.dtype).removeprefix('torch.')} {list(result.shape)}"
            raise UserError(
                f"The augmentation {self.name!r} makes {shown} of uint8 {list(image.shape)}; an augmentation keeps "
                "the images' size, channels and uint8 pixels (data.image_size, data.channels, data.mean and data.std "
                "set the others).",
                code="library-transform-shape",
            )
        return result.as_subclass(Tensor)

    def _goes_together(self, images: Tensor) -> bool:
        """Whether samples with the same parameters go through the transform in one call, on their device.

        Not on a CPU, where a pixel's rounding can depend on its place in the batch.
        """
        kind = images.device.type
        if kind == "cpu" or not len(images):
            return False
        if kind not in self._together:
            self._together[kind] = self._splits(images)
        return self._together[kind]

    def _splits(self, images: Tensor) -> bool:
        """Whether the transform draws parameters first, and nothing while it changes pixels on this device."""
        if _drawing(self._transform) is None:
            return False
        torch.default_generator.manual_seed(0)
        try:
            with torch.random.fork_rng(devices=[images.device]):
                parameters = _drawing(self._transform)(images[0])
                before = torch.get_rng_state(), torch.cuda.get_rng_state(images.device)
                result = _changing(self._transform)(images[:1], parameters)
                after = torch.get_rng_state(), torch.cuda.get_rng_state(images.device)
        except Exception:  # what cannot be done there is done on the CPU, which says why it fails
            return False
        same = all(one.equal(other) for one, other in zip(before, after, strict=True))
        return same and result.device == images.device and result.shape == images[:1].shape

    def _in_groups(self, images: Tensor, seeds: list[int]) -> Tensor:
        """The results for images, those with the same parameters in one call each."""
        groups: dict[str, tuple[dict[str, Any], list[int]]] = {}
        share = getattr(self._transform, "p", None) if _by_chance(self._transform) else None
        draw = _drawing(self._transform)
        for row, seed in enumerate(seeds):
            torch.default_generator.manual_seed(seed)
            if share is not None and float(torch.rand(1)) >= share:
                continue
            parameters = draw(images[row])
            groups.setdefault(_shown(parameters, row), (parameters, []))[1].append(row)
        result = images.clone()
        for parameters, rows in groups.values():
            at = torch.tensor(rows, device=images.device)
            result[at] = _changing(self._transform)(images[at], parameters)
        return result


def sample_seeds(
    index: Tensor, *, seed: int, stage: int, epoch: int, view: int = 0, number: int = 0
) -> list[int]:
    """The seed of torch's global generator for each sample, in [0, 2^62).

    Args:
        index: int64 ``[B]``, each sample's number.
        seed, stage, epoch, view: the rest of the address.
        number: of the transform, among those of its chain.
    """
    words = hashed(key_of(PURPOSE_AUGMENT, seed, stage, epoch, view, _FIRST_DRAW + number), index)
    seeds: list[int] = ((words >> 2) & ((1 << 62) - 1)).tolist()
    return seeds


@contextmanager
def _generator_kept() -> Iterator[None]:
    """Put the CPU's global generator back afterwards; those of other devices are not touched."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _build(name: str, options: Mapping[str, Value]) -> nn.Module:
    word, library = name.removeprefix(LIBRARY), _library()
    names = library_transforms()
    reason = REFUSED.get(word)
    if reason is None and word not in names:
        raise UserError(
            unknown("transform of torchvision.transforms.v2", word, names), code="unknown-augmentation"
        )
    if reason is not None:
        raise _cannot(name, reason)
    arguments: dict[str, Any] = dict(options)
    try:
        if "policy" in arguments:
            arguments["policy"] = library.AutoAugmentPolicy(arguments["policy"])
        transform: nn.Module = getattr(library, word)(**arguments)
    except Exception as error:
        raise UserError(
            f"The augmentation {name!r} cannot be made with {dict(options)}: {told(error)}",
            code="library-transform-options",
        ) from error
    wanted = getattr(transform, "_needs_transform_list", None)
    if wanted is not None and wanted([torch.zeros(3, 2, 2, dtype=torch.uint8)]) == [False]:
        raise _cannot(name, "it leaves the pixels of an image as they are")
    return transform


def library_transforms() -> list[str]:
    """The names of the classes of ``torchvision.transforms.v2`` that can be asked for, in their order there."""
    library = _library()
    return [
        name
        for name, value in vars(library).items()
        if isinstance(value, type)
        and issubclass(value, library.Transform)
        and value is not library.Transform
        and name not in REFUSED
    ]


def _library() -> ModuleType:
    try:
        from torchvision.transforms import v2  # a second of import that only these need
    except ImportError as error:
        raise UserError(
            f"An augmentation v2:NAME needs torchvision, which cannot be imported here ({error}); install it from the "
            "index that torch is from.",
            code="torchvision-missing",
        ) from None
    return v2


def _cannot(name: str, reason: str) -> UserError:
    return UserError(f"The augmentation {name!r} cannot be: {reason}.", code="library-transform-refused")


def _by_chance(transform: nn.Module) -> bool:
    """Whether the transform draws first, against its ``p``, whether it does anything."""
    return any(cls.__name__ == "_RandomApplyTransform" for cls in type(transform).__mro__)


def _drawing(transform: nn.Module) -> Any:
    """The function from an image to drawn parameters; None of a transform that does all in its ``forward``."""
    bases = {"_RandomApplyTransform", "Transform"}
    owner = next(cls for cls in type(transform).__mro__ if "forward" in vars(cls))
    make = getattr(transform, "make_params", None) or getattr(transform, "_get_params", None)
    if owner.__name__ not in bases or make is None:
        return None
    return lambda image: make([image])


def _changing(transform: nn.Module) -> Any:
    """The function from images and parameters to changed images; of torchvision before 0.21 it has another name."""
    return getattr(transform, "transform", None) or transform._transform


def _shown(parameters: Mapping[str, Any], row: int) -> str:
    """A text that is the same for the same parameters; one of its own for those that hold a tensor."""
    text = repr(sorted(parameters.items(), key=lambda item: item[0]))
    return f"{row}" if "tensor" in text else text
