"""The data sets by name, and how each is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional

from gkd.data.cache import cache_folder
from gkd.data.files import Source, open_source
from gkd.data.images import ImageSet
from gkd.data.layouts import LAYOUTS, Layout, scan
from gkd.data.listing import Split, check_format, decoded_bytes, load_split, stream_split
from gkd.data.random import PURPOSE_DIGITS, hashed, key_of
from gkd.errors import UserError, unknown
from gkd.labels import LabelSpace


class Reader(Protocol):
    """Reads one split of a data set; the arguments are those of :func:`load_images`."""

    def __call__(
        self,
        split: Split,
        *,
        root: Path | None = None,
        download: bool = False,
        channels: int | None = None,
        image_size: int | None = None,
    ) -> ImageSet: ...


def _conform(pixels: Tensor, channels: int | None, image_size: int | None) -> Tensor:
    """uint8 ``[N, C, H, W]`` with the asked-for channels and square size."""
    check_format(channels, image_size)
    if channels == 3 and pixels.shape[1] == 1:
        pixels = pixels.expand(-1, 3, -1, -1).contiguous()
    elif channels == 1 and pixels.shape[1] == 3:
        # ITU-R 601-2 luma in 16-bit fixed point: what PIL's convert("L") computes.
        weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(3, 1, 1)
        grey = [((part * weights).sum(1, keepdim=True) + 0x8000) >> 16 for part in pixels.split(4096)]
        pixels = torch.cat(grey).to(torch.uint8)
    if image_size is not None and pixels.shape[2:] != (image_size, image_size):
        resized = [
            functional.interpolate(part.float(), (image_size, image_size), mode="bilinear", antialias=True)
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
) -> ImageSet:
    """scikit-learn's handwritten digits: 1,797 grey images of 8×8, classes "0" to "9".

    They come with scikit-learn, so ``root`` and ``download`` play no part. The values 0 to 16 are scaled to
    0 to 255. The data has no split of its own: 540 of the images, the same share of each class, are the
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
        _conform(pixels[chosen], channels, image_size),
        labels[chosen],
        LabelSpace([str(digit) for digit in range(10)]),
        name="digits",
    )


def _from_torchvision(name: str, class_name: str) -> Reader:
    """The reader of a data set that torchvision downloads and checks."""

    def read(
        split: Split,
        *,
        root: Path | None = None,
        download: bool = False,
        channels: int | None = None,
        image_size: int | None = None,
    ) -> ImageSet:
        import torchvision

        folder = cache_folder() / "datasets" if root is None else root
        dataset_class: Callable[..., Any] = getattr(torchvision.datasets, class_name)
        try:
            data = dataset_class(str(folder), train=split == "train", download=download)
        except Exception as error:
            # torchvision reports by RuntimeError that files are missing or fail their checksums; a download
            # fails by whatever the network stack raises.
            if download:
                raise UserError(
                    f"{name} could not be downloaded to {folder} ({error}); check the network, or put "
                    "torchvision's files there by hand."
                ) from error
            raise UserError(
                f"{name} is not, or not whole, in {folder}; set data.download to true, or data.root to the "
                "folder that holds torchvision's files."
            ) from error
        pixels = torch.as_tensor(data.data)
        pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2).contiguous()
        return ImageSet(
            _conform(pixels, channels, image_size),
            torch.as_tensor(data.targets, dtype=torch.int64),
            LabelSpace(data.classes),
            name=name,
        )

    read.__doc__ = (
        f"torchvision's {class_name}; files that are missing and not to be downloaded are a UserError."
    )
    return read


ARRAYS: dict[str, Reader] = {
    "digits": read_digits,
    "cifar10": _from_torchvision("cifar10", "CIFAR10"),
    "cifar100": _from_torchvision("cifar100", "CIFAR100"),
    "fashion_mnist": _from_torchvision("fashion_mnist", "FashionMNIST"),
}

# Every data set by name: those that come as arrays, and those that are image files in some layout.
DATASETS: Mapping[str, Reader | Layout] = {**ARRAYS, **LAYOUTS}


def load_images(
    name: str,
    split: Split,
    *,
    root: Path | None = None,
    download: bool = False,
    channels: int | None = None,
    image_size: int | None = None,
    memory_gb: float = math.inf,
    workers: int = 0,
) -> ImageSet:
    """One split of a data set by name.

    Args:
        name: a key of :data:`DATASETS`.
        split: ``"train"`` or ``"test"``; ``"validation"`` where image files have such a split.
        root: for image files their directory or zip; for torchvision's data sets the folder of their files
            (None: ``datasets`` in gkd's cache folder); ``digits`` needs none.
        download: fetch a missing torchvision data set.
        channels: 1 or 3; None keeps the data's own, and refuses grey image files among colour ones.
        image_size: pixels of a square to which every image is resized (antialiased bilinear, aspect ratio
            not kept); None keeps the data's own.
        memory_gb: GiB; image files whose pixels take more, all splits together, are streamed from disk.
        workers: processes that decode streamed images.

    Returns:
        The images on the CPU, or on disk; classes in the data's natural order.

    Raises:
        UserError: an unknown name or split, or data that cannot be read: one sentence on what to do.
    """
    if name not in DATASETS:
        raise UserError(unknown("data set", name, DATASETS))
    if split not in get_args(Split):
        raise UserError(unknown("split", split, get_args(Split)))
    root = None if root is None else Path(root).expanduser()
    if name in LAYOUTS:
        if root is None:
            what = " of SPLIT/CLASS/FILE" if name == "folder" else " of its files"
            raise UserError(f"The data {name!r} needs data.root: the path of a zip or a folder{what}.")
        check_format(channels, image_size)
        with closing(open_source(root)) as source:
            return _read_files(source, name, split, root, channels, image_size, memory_gb, workers)
    if split == "validation":
        raise UserError(f"{name} has no validation split of its own; use 'train' or 'test'.")
    return ARRAYS[name](split, root=root, download=download, channels=channels, image_size=image_size)


def _read_files(
    source: Source,
    name: str,
    split: Split,
    root: Path,
    channels: int | None,
    image_size: int | None,
    memory_gb: float,
    workers: int,
) -> ImageSet:
    """The images of a split, in memory where those of all splits fit there."""
    shown = root.stem if name == "folder" else name
    listing = scan(name, source)
    if decoded_bytes(source, listing, channels=channels, image_size=image_size) <= memory_gb * 2**30:
        return load_split(source, listing, split, channels=channels, image_size=image_size, name=shown)
    return stream_split(
        source,
        listing,
        split,
        root=root,
        channels=channels,
        image_size=image_size,
        workers=workers,
        name=shown,
    )
