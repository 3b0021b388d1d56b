"""Data sets that come as arrays: scikit-learn's digits, and those that torchvision downloads and checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.core.memory import check_memory
from gkd.data.addressed_random import PURPOSE_DIGITS, hashed, key_of
from gkd.data.decoding import Form
from gkd.data.images import ImageSet
from gkd.data.read.listing import Split
from gkd.storage.cache_folder import cache_folder
from gkd.storage.preprocessing import Interpolation

DIGITS = [str(digit) for digit in range(10)]


class Reader(Protocol):
    """A reader of one split of a data set; the arguments are those of :func:`gkd.data.load_images`."""

    def __call__(
        self,
        split: Split,
        *,
        root: Path | None = None,
        download: bool = False,
        channels: int | None = None,
        image_size: int | None = None,
        interpolation: Interpolation = "bilinear",
    ) -> ImageSet: ...


def _conform(
    pixels: Tensor, channels: int | None, image_size: int | None, interpolation: Interpolation
) -> Tensor:
    """uint8 ``[N, C, H, W]`` with the asked-for channels and square size."""
    Form(channels, image_size)  # refuses values that no image can have
    if channels == 3 and pixels.shape[1] == 1:
        pixels = pixels.expand(-1, 3, -1, -1).contiguous()
    elif channels == 1 and pixels.shape[1] == 3:
        # ITU-R 601-2 luma in 16-bit fixed point: what PIL's convert("L") computes.
        weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(3, 1, 1)
        grey = [((part * weights).sum(1, keepdim=True) + 0x8000) >> 16 for part in pixels.split(4096)]
        pixels = torch.cat(grey).to(torch.uint8)
    if image_size is not None and pixels.shape[2:] != (image_size, image_size):
        in_floats = 4 * min(len(pixels), 4096)  # those that are resized at once
        check_memory(
            (len(pixels) + in_floats) * pixels.shape[1] * image_size**2,
            f"The {len(pixels)} images of {pixels.shape[1]}×{image_size}×{image_size}",
            "give a smaller data.image_size (or data.teacher_view.image_size)",
        )
        resized = [
            functional.interpolate(part.float(), (image_size, image_size), mode=interpolation, antialias=True)
            for part in pixels.split(4096)
        ]
        pixels = torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in resized])
    return pixels


def read_digits(
    split: Split,
    *,
    root: Path | None = None,
    download: bool = False,
    channels: int | None = None,
    image_size: int | None = None,
    interpolation: Interpolation = "bilinear",
) -> ImageSet:
    """scikit-learn's handwritten digits: 1,797 grey images of 8×8, classes "0" to "9".

    They come with scikit-learn, so ``root`` and ``download`` are ignored. The values 0 to 16 are scaled to
    0 to 255. The data is published without a split: 540 of the images, the same share of each class, are the
    test images, 1,257 the training images, the same for every seed.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.from_numpy((data.images * (255 / 16)).round()).to(torch.uint8)[:, None]
    labels = torch.from_numpy(data.target).to(torch.int64)
    # Walk through the samples class by class, in hashed order within a class, and take every 1797/540-th.
    count, held_out = len(labels), 540
    order = torch.argsort(hashed(key_of(PURPOSE_DIGITS), torch.arange(count)))
    order = order[torch.argsort(labels[order], stable=True)]
    is_test = torch.zeros(count, dtype=torch.bool)
    is_test[order[torch.arange(count) * held_out % count < held_out]] = True
    chosen = torch.nonzero(is_test if split == "test" else ~is_test).flatten()
    return ImageSet(
        _conform(pixels[chosen], channels, image_size, interpolation),
        labels[chosen],
        LabelSpace(DIGITS),
        name="digits",
    )


# The content of a torchvision data set: uint8 [N, C, H, W], int64 [N], class names, file names or None.
_Content = tuple[Tensor, Tensor, list[str], tuple[str, ...] | None]


def _in_memory(data: Any) -> _Content:
    """CIFAR and MNIST: ``data``, ``targets``, ``classes``."""
    pixels = torch.as_tensor(data.data)
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return pixels, torch.as_tensor(data.targets, dtype=torch.int64), data.classes, None


def _digits(data: Any) -> _Content:
    """MNIST with the class names of the other digit data sets, so that classes match by name."""
    pixels, labels, _, _ = _in_memory(data)
    return pixels, labels, DIGITS, None


def _svhn(data: Any) -> _Content:
    pixels = torch.from_numpy(np.ascontiguousarray(data.data))
    return pixels, torch.as_tensor(data.labels, dtype=torch.int64), DIGITS, None


def _omniglot(data: Any) -> _Content:
    # torchvision numbers characters and drawings in the order in which the disk happens to list them.
    characters = [character.replace("\\", "/") for character in data._characters]
    drawings = [(characters[label], file, i) for i, (file, label) in enumerate(data._flat_character_images)]
    names = sorted(characters)
    column = {name: label for label, name in enumerate(names)}
    drawings.sort()
    pixels = torch.from_numpy(np.stack([np.asarray(data[i][0]) for _, _, i in drawings]))[:, None]
    labels = torch.tensor([column[name] for name, _, _ in drawings])
    return pixels, labels, names, tuple(f"{name}/{file}" for name, file, _ in drawings)


def _train(split: Split) -> dict[str, Any]:
    return {"train": split == "train"}


def _files(dataset_class: Any) -> str:
    """What torchvision looks for in the folder of a data set, and where that is published, if torchvision says so."""
    folder, address = getattr(dataset_class, "base_folder", None), getattr(dataset_class, "url", None)
    return f"the folder {folder} of {address}" if folder and address else "torchvision's files"


def _from_torchvision(
    name: str,
    class_name: str,
    about: str,
    *,
    arguments: Callable[[Split], dict[str, Any]] = _train,
    content: Callable[[Any], _Content] = _in_memory,
) -> Reader:
    """Make the reader of a data set that torchvision downloads and checks.

    Args:
        name: gkd's name of the data set.
        class_name: its class in ``torchvision.datasets``.
        about: the data set in a sentence.
        arguments: from a split to arguments of the class.
        content: reads an instance of the class.
    """

    def read(
        split: Split,
        *,
        root: Path | None = None,
        download: bool = False,
        channels: int | None = None,
        image_size: int | None = None,
        interpolation: Interpolation = "bilinear",
    ) -> ImageSet:
        import torchvision

        folder = cache_folder() / "datasets" if root is None else root
        dataset_class: Callable[..., Any] = getattr(torchvision.datasets, class_name)
        try:
            data = dataset_class(str(folder), download=download, **arguments(split))
            pixels, labels, classes, files = content(data)
        except (MemoryError, UserError):
            raise
        except Exception as error:
            # torchvision reports by RuntimeError that files are missing or fail their checksums; a download
            # fails by whatever the network stack raises, and a file cut short by whatever its parser does.
            if download:
                raise UserError(
                    f"{name} could not be downloaded to {folder} ({error}); check the network, or put "
                    f"{_files(dataset_class)} there by hand.",
                    code="download-failed",
                ) from error
            raise UserError(
                f"{name} is not, or not whole, in {folder}; set data.download to true, or data.root to the "
                f"folder that holds {_files(dataset_class)}.",
                code="data-set-missing",
            ) from error
        pixels = _conform(pixels, channels, image_size, interpolation)
        return ImageSet(pixels, labels, LabelSpace(classes), files=files, name=name)

    read.__doc__ = f"{about[:-1]} (torchvision)."
    return read


BUNDLED = ("digits",)  # data sets that need no file

ARRAYS: dict[str, Reader] = {
    "digits": read_digits,
    "cifar10": _from_torchvision("cifar10", "CIFAR10", "CIFAR-10: 10 classes of 32-pixel colour images."),
    "cifar100": _from_torchvision(
        "cifar100", "CIFAR100", "CIFAR-100: 100 classes of 32-pixel colour images."
    ),
    "mnist": _from_torchvision(
        "mnist", "MNIST", 'MNIST: handwritten digits, 28-pixel grey, classes "0" to "9".', content=_digits
    ),
    "fashion_mnist": _from_torchvision(
        "fashion_mnist", "FashionMNIST", "Fashion-MNIST: 10 classes of 28-pixel grey images."
    ),
    "svhn": _from_torchvision(
        "svhn",
        "SVHN",
        'SVHN: house numbers, 32-pixel colour, classes "0" to "9"; without its extra images.',
        arguments=lambda split: {"split": split},
        content=_svhn,
    ),
    "omniglot": _from_torchvision(
        "omniglot",
        "Omniglot",
        "Omniglot: 105-pixel drawings, 964 characters to train on and 659 other ones to test on (few-shot data).",
        arguments=lambda split: {"background": split == "train"},
        content=_omniglot,
    ),
}
