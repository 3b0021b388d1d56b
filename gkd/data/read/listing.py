"""A data set of image files before a pixel is decoded: which files, of which class, in which split.

A layout (:mod:`gkd.data.read.layouts`) makes a :class:`Listing`; what follows is the same for all of them.
:func:`load_split` decodes images once and caches them as uint8 (:mod:`gkd.data.read.decoded_cache`). The cache is keyed
by the files' content (:mod:`gkd.data.read.content`), so a changed data set is decoded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from gkd.core.cpus import available_cpus
from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.core.text import decoded
from gkd.data.decoding import Form, decode, open_image
from gkd.data.image_files import EXTENSIONS, UNREAD, Source, Tree
from gkd.data.images import ImageSet
from gkd.data.read.decoded_cache import read_cached, write_cached
from gkd.data.streamed_pixels import StreamedPixels

Split = Literal["train", "validation", "test"]


_CACHE_FORMAT = "3"  # raise it when the same files would be decoded to other pixels


_DECODED_AT_ONCE = 256


_NAMED = 20  # damaged files that one message names


# split -> the folder names that imply it
FOLDERS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test", "val")}


@dataclass(frozen=True)
class SplitListing:
    """The files of one split.

    Attributes:
        files: N paths inside the source, with ``/``.
        labels: N columns of ``classes``.
        classes: the class names.
    """

    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """The files of a data set by split and class, listed without opening an image.

    Attributes:
        label: where it is, for messages.
        splits: ``"train"``, ``"validation"``, ``"test"`` -> its files; only those that are there.
        prefix: the folder common to all files, left out of the names that are shown.
        stamp: 64 hex digits over paths, splits, classes and the files' stamps.
    """

    label: str
    splits: dict[str, SplitListing]
    prefix: str
    stamp: str

    def split(self, split: Split) -> SplitListing:
        """The files of one split; a UserError where the data has no such split."""
        if split not in self.splits:
            there = " and ".join(f"'{name}'" for name in self.splits)
            folders = " or ".join(f"'{name}'" for name in FOLDERS[split])
            raise UserError(
                f"{self.label} has no images of the split '{split}', only of {there}; add them (class folders: below a "
                f"folder {folders}, in lower case).",
                code="split-missing",
            )
        return self.splits[split]

    def shown(self, path: str) -> str:
        """A file's path as messages and ``ImageSet.files`` show it."""
        return path.removeprefix(self.prefix)

    def order(self) -> str:
        """64 hex digits over splits, classes in the order of their columns, and files in their order."""
        digest = hashlib.sha256()
        for name, part in self.splits.items():
            digest.update(f"{name}\0{part.classes!r}\n".encode("utf-8", "surrogateescape"))
            for path, label in zip(part.files, part.labels, strict=True):
                digest.update(f"{label}\0{self.shown(path)}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(split, class name, path) of every file."""
        for name, part in self.splits.items():
            for path, label in zip(part.files, part.labels, strict=True):
                yield name, part.classes[label], path


def listing_from(tree: Tree, splits: Mapping[str, Mapping[str, Sequence[str]]], *, hint: str) -> Listing:
    """Make a listing and check its classes.

    Args:
        tree: the files of the data set.
        splits: split -> class, in the order of the columns -> its files' paths below ``tree.prefix``. Splits
            and the files of a class are sorted here.
        hint: the advice in the message about a class without an image.

    Raises:
        UserError: a class without an image, or one that only the training or only the test split has while
            they share others (splits without a common class are few-shot data).
    """
    listed: dict[str, SplitListing] = {}
    digest = hashlib.sha256()
    for split in (name for name in ("train", "validation", "test") if name in splits):
        classes = splits[split]
        for name, files in classes.items():
            if not files:
                raise UserError(
                    f"The class '{name}' of the {split} split of {tree.label} has no image "
                    f"({', '.join(EXTENSIONS)}); {hint}.",
                    code="class-without-images",
                )
        rows = [(column, path) for column, name in enumerate(classes) for path in sorted(classes[name])]
        names = tuple(classes)
        for column, path in rows:
            about = f"{split}\0{names[column]}\0{tree.prefix}{path}\0{tree.stamps[path]}\n"
            digest.update(about.encode("utf-8", "surrogateescape"))
        listed[split] = SplitListing(
            tuple(tree.prefix + path for _, path in rows),
            tuple(column for column, _ in rows),
            tuple(map(decoded, names)),
        )
    listing = Listing(tree.label, listed, tree.prefix, digest.hexdigest())
    _check_classes(listing)
    _warn_of_unread(tree)
    return listing


def _warn_of_unread(tree: Tree) -> None:
    """Warn where photographs are left out because gkd does not decode their format."""
    endings = (f".{path.rpartition('.')[2].lower()}" for path in tree.stamps)
    counts = Counter(ending for ending in endings if ending in UNREAD)
    if counts:
        shown = ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))
        warnings.warn(
            f"{tree.label} has photographs that are left out, for gkd does not decode them ({shown}); convert them to "
            "JPEG or PNG to use them.",
            stacklevel=2,
        )


def _check_classes(listing: Listing) -> None:
    if not {"train", "test"} <= set(listing.splits):
        return
    train, test = (set(listing.splits[split].classes) for split in ("train", "test"))
    if train & test and train != test:
        name = min(train ^ test)
        here, there = ("train", "test") if name in train else ("test", "train")
        raise UserError(
            f"The class '{name}' of {listing.label} has images in the {here} split but not in the {there} split; "
            "give both splits the same classes, or wholly different ones for few-shot episodes.",
            code="class-in-one-split",
        )


def first_file(listing: Listing) -> str:
    """The first file of a listing, with whose size and channels those of the others are compared."""
    return next(iter(listing.splits.values())).files[0]


def check_like(image: np.ndarray, path: str, first: np.ndarray, first_path: str, label: str) -> None:
    """Refuse an image of another size or other channels than the first.

    Args:
        image, first: uint8 ``[H, W]`` or ``[H, W, 3]``, as :func:`gkd.data.decoding.decode` gives them.
        path, first_path: of their files.
        label: where they are.
    """
    if image.ndim != first.ndim:
        grey, colour = (path, first_path) if image.ndim == 2 else (first_path, path)
        raise UserError(
            f"The image '{grey}' in {label} is grey where '{colour}' is in colour; set data.channels=3 (grey is "
            "then R = G = B) or data.channels=1 (all become grey).",
            code="mixed-channels",
        )
    if image.shape[:2] != first.shape[:2]:
        height, width = image.shape[:2]
        raise UserError(
            f"The image '{path}' in {label} is {height}×{width} (height×width) where '{first_path}' is "
            f"{first.shape[0]}×{first.shape[1]}; make them one size or set data.image_size.",
            code="mixed-image-sizes",
        )


def _first(source: Source, paths: Sequence[str], form: Form) -> np.ndarray:
    """The first image that can be decoded; a single pixel where none can, which ``_decode_all`` reports."""
    for path in paths:
        with contextlib.suppress(UserError):
            return decode(source, path, form)
    return np.zeros((1, 1), dtype=np.uint8)


def _decode_all(source: Source, paths: Sequence[str], first_path: str, form: Form) -> np.ndarray:
    """All images as uint8 ``[N, C, H, W]``, each like the one at ``first_path``."""
    first = _first(source, [first_path, *paths], form)
    decoded = np.empty((len(paths), 1 if first.ndim == 2 else 3, *first.shape[:2]), dtype=np.uint8)
    chunks = [paths[i : i + _DECODED_AT_ONCE] for i in range(0, len(paths), _DECODED_AT_ONCE)]
    num_threads = min(4, available_cpus())
    pool = ThreadPoolExecutor(num_threads)
    position = 0
    damaged: list[UserError] = []

    def attempt(path: str) -> np.ndarray | UserError:
        try:
            return decode(source, path, form)
        except UserError as error:
            return error

    try:
        # Results come in the order of the files, so an error names the same files every time.
        for images in pool.map(lambda part: [attempt(path) for path in part], chunks):
            for image in images:
                if isinstance(image, UserError):
                    damaged.append(image)
                elif not damaged:
                    check_like(image, paths[position], first, first_path, source.label)
                    decoded[position] = image if image.ndim == 2 else image.transpose(2, 0, 1)
                position += 1
    finally:
        pool.shutdown(cancel_futures=True)
    if len(damaged) == 1:
        raise damaged[0]
    if damaged:
        more = [f"and {len(damaged) - _NAMED} more"] if len(damaged) > _NAMED else []
        lines = "\n  ".join([*map(str, damaged[:_NAMED]), *more])
        raise UserError(
            f"{len(damaged)} images in {source.label} cannot be decoded:\n  {lines}", code="image-unreadable"
        )
    return decoded


def load_split(
    source: Source,
    listing: Listing,
    split: Split,
    form: Form,
    *,
    content: str,
    name: str = "images",
) -> ImageSet:
    """Load one split of a listing: decode its images, or read them from the cache.

    Training and test split are decoded together, so that an error in either is raised at the start.

    Args:
        source: where the listing's files are, open.
        listing: of a layout.
        split: one of its splits.
        form: channels and size of the result. Without channels all images have to be grey (or 1 bit) or all colour,
            without a size all of one size.
        content: the fingerprint of the files, under which the decoded images are cached.
        name: of the set, for messages.

    Raises:
        UserError: no such split, an image that cannot be decoded (named), images of several sizes, grey
            images among colour ones.
    """
    listing.split(split)
    order = listing.order()

    def key(part: str) -> str:
        identity = (_CACHE_FORMAT, content, order, form, part)
        return f"images-{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}"

    cached = read_cached(key(split), name)
    if cached is not None:
        return cached
    together = ("train", "test") if split in ("train", "test") else (split,)
    parts = {part: listing.splits[part] for part in together if part in listing.splits}
    paths = [path for part in parts.values() for path in part.files]
    pixels = torch.from_numpy(_decode_all(source, paths, first_file(listing), form))
    sets, start = {}, 0
    for part, listed in parts.items():
        sets[part] = ImageSet(
            pixels[start : start + len(listed.files)],
            torch.tensor(listed.labels, dtype=torch.int64),
            LabelSpace(listed.classes),
            files=tuple(listing.shown(path) for path in listed.files),
            name=name,
        )
        start += len(listed.files)
        write_cached(key(part), sets[part])
    return sets[split]


def stream_split(
    source: Source,
    listing: Listing,
    split: Split,
    form: Form,
    *,
    root: Path,
    turned: bool,
    workers: int,
    name: str,
) -> ImageSet:
    """One split of a listing whose pixels stay on disk.

    Args:
        source, listing, split, name: as of :func:`load_split`.
        form: likewise, but None channels mean 3, because the files are not opened to look.
        root: where the source is, for the worker processes.
        turned: whether ``form`` turns any of the images.
        workers: processes that decode.
    """
    listed = listing.split(split)
    return ImageSet(
        StreamedPixels(
            root,
            listed.files,
            form=replace(form, channels=form.channels or 3),
            size=_size(source, listing, form),
            workers=workers,
            stamp=hashlib.sha256(f"turned {listing.stamp}".encode()).hexdigest() if turned else listing.stamp,
        ),
        torch.tensor(listed.labels, dtype=torch.int64),
        LabelSpace(listed.classes),
        files=tuple(listing.shown(path) for path in listed.files),
        name=name,
    )


def decoded_bytes(source: Source, listing: Listing, form: Form) -> int:
    """Bytes of the decoded images of all splits, by the size of the first image where ``form`` has none."""
    height, width = _size(source, listing, form)
    return sum(len(part.files) for part in listing.splits.values()) * (form.channels or 3) * height * width


def _size(source: Source, listing: Listing, form: Form) -> tuple[int, int]:
    """Height and width of ``form``, or of the first image that can be decoded."""
    if form.image_size is not None:
        return form.image_size, form.image_size
    for part in listing.splits.values():
        for path in part.files:
            with contextlib.suppress(UserError):
                image = open_image(source, path, replace(form, channels=None))
                return image.height, image.width
    return 1, 1  # no image can be decoded: reading them raises the error
