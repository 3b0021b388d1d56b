"""Image sets from class folders ``SPLIT/CLASS/FILE``, in a directory or inside a zip.

A zip is read in place. Images are decoded once and cached as uint8 (see :mod:`gkd.data.cache`); the cache
is keyed by what the files are (a zip: names, sizes and CRCs from its central directory; a directory: names,
sizes and modification times), so a changed data set is decoded again. :func:`fingerprint` names the content
itself, whatever it is packed in.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image

from gkd.data.cache import read_cached, read_fact, write_cached, write_fact
from gkd.data.images import ImageSet
from gkd.errors import UserError
from gkd.labels import LabelSpace

Split = Literal["train", "test"]

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_CACHE_FORMAT = "1"  # raise it when the same files would be decoded to other pixels
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")
_DECODED_AT_ONCE = 256


class _Source(Protocol):
    """Where files come from: paths with ``/``, relative to the root."""

    label: str

    def entries(self) -> Iterator[tuple[str, str]]:
        """(path, stamp) of everything, folders ending in ``/``; the stamp changes with the content."""

    def read(self, path: str) -> bytes: ...

    def checksum(self, path: str) -> str:
        """Size and CRC-32 of a file, the same in a zip and in a directory."""

    def close(self) -> None: ...


class _ZipSource:
    def __init__(self, path: Path) -> None:
        self.label = str(path)
        try:
            self.archive = zipfile.ZipFile(path)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} is not a readable zip ({error}); give a zip or a folder of SPLIT/CLASS/FILE images, "
                "or fetch the file again."
            ) from error

    def entries(self) -> Iterator[tuple[str, str]]:
        for info in self.archive.infolist():
            yield info.filename, self.checksum(info.filename)

    def read(self, path: str) -> bytes:
        return self.archive.read(path)  # checks the CRC; safe from several threads

    def checksum(self, path: str) -> str:
        info = self.archive.getinfo(path)
        return f"{info.file_size}:{info.CRC}"

    def close(self) -> None:
        self.archive.close()


class _FolderSource:
    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self.path = path

    def entries(self) -> Iterator[tuple[str, str]]:
        waiting = [""]
        while waiting:
            prefix = waiting.pop()
            try:
                found = list(os.scandir(self.path / prefix))
            except OSError as error:
                raise UserError(f"{self.path / prefix} cannot be read ({error.strerror}).") from error
            for entry in found:
                if entry.is_dir():
                    waiting.append(f"{prefix}{entry.name}/")
                    yield f"{prefix}{entry.name}/", ""
                elif entry.is_file():
                    status = entry.stat()
                    yield f"{prefix}{entry.name}", f"{status.st_size}:{status.st_mtime_ns}"

    def read(self, path: str) -> bytes:
        return (self.path / path).read_bytes()

    def checksum(self, path: str) -> str:
        try:
            content = self.read(path)
        except OSError as error:
            raise UserError(f"{self.path / path} cannot be read ({error.strerror}).") from error
        return f"{len(content)}:{zlib.crc32(content)}"

    def close(self) -> None: ...


@dataclass(frozen=True)
class _Layout:
    """What a source holds: split -> class -> sorted file paths, and a fingerprint of it all."""

    splits: dict[str, dict[str, list[str]]]
    prefix: str
    fingerprint: str


def _scan(source: _Source) -> _Layout:
    """Finds the splits and classes, without opening a file."""
    entries = [
        (path, stamp)
        for path, stamp in source.entries()
        if not path.startswith(("__MACOSX/", ".")) and "/." not in path
    ]
    prefix = ""
    tops = {path.split("/", 1)[0] for path, _ in entries}
    if len(tops) == 1 and not tops & {"train", "test", "val"}:
        prefix = f"{tops.pop()}/"  # a data set packed together with its own folder
    found: dict[str, dict[str, list[str]]] = {}
    digest = hashlib.sha256()
    for path, stamp in sorted(entries):
        parts = path[len(prefix) :].split("/")
        if len(parts) < 3:  # a file beside the splits or beside the classes; a split's own entry
            if len(parts) == 2:
                found.setdefault(parts[0], {})
            continue
        files = found.setdefault(parts[0], {}).setdefault(parts[1], [])
        if parts[-1].lower().endswith(EXTENSIONS):
            files.append(path)
            digest.update(f"{path}\0{stamp}\n".encode("utf-8", "surrogateescape"))
    splits = {"train": found.get("train"), "test": found.get("test") or found.get("val")}
    present = {split: classes for split, classes in splits.items() if classes}
    if not present:
        flat = f"{len(entries)} files without a folder" if entries else "nothing"
        shown = ", ".join(sorted(found)[:10]) or flat
        raise UserError(
            f"{source.label} has no folder 'train', 'test' or 'val' with class folders in it (found: "
            f"{shown}); arrange the images as SPLIT/CLASS/FILE."
        )
    return _Layout(present, prefix, digest.hexdigest())


def _check(layout: _Layout, split: Split, label: str) -> None:
    """Refuses a layout that lacks the split, has an empty class, or whose splits differ in classes."""
    if split not in layout.splits:
        also = " (or 'val')" if split == "test" else ""
        raise UserError(
            f"{label} has no folder '{split}'{also} with class folders in it, only "
            f"'{next(iter(layout.splits))}'; arrange the images as SPLIT/CLASS/FILE."
        )
    for present, classes in layout.splits.items():
        for name, files in classes.items():
            if not files:
                raise UserError(
                    f"The class folder '{name}' of the {present} split of {label} has no image "
                    f"({', '.join(EXTENSIONS)}); add images or remove the folder."
                )
    if len(layout.splits) < 2:
        return
    train, test = (set(layout.splits[present]) for present in ("train", "test"))
    # Splits that share no class at all are the few-shot layout, where one judges on new classes.
    if train & test and train != test:
        name = min(train ^ test)
        here, there = ("train", "test") if name in train else ("test", "train")
        raise UserError(
            f"The class '{name}' of {label} has images in the {here} split but not in the {there} split; "
            "give both splits the same classes, or wholly different ones for few-shot episodes."
        )


def _decode(
    source: _Source, path: str, channels: int | None, image_size: int | None
) -> np.ndarray:  # uint8 [H, W] or [H, W, 3]
    """One image as uint8 pixels; grey ones stay grey where ``channels`` is None."""
    # Decoders report damage by many kinds of exception (OSError, SyntaxError, struct.error, zlib.error, …):
    # all mean that this file cannot be used.
    try:
        with Image.open(io.BytesIO(source.read(path))) as image:
            if image.mode not in _GREY_MODES + _COLOUR_MODES:
                raise ValueError(f"pixels of mode {image.mode}; only 8 bits a channel are supported")
            grey = channels == 1 or (channels is None and image.mode in _GREY_MODES)
            pixels = image.convert("L" if grey else "RGB")
            if image_size is not None and pixels.size != (image_size, image_size):
                pixels = pixels.resize((image_size, image_size), Image.Resampling.BILINEAR)
            return np.asarray(pixels)
    except MemoryError:
        raise
    except Exception as error:
        raise UserError(
            f"The image '{path}' in {source.label} cannot be decoded ({error}); replace it or remove it."
        ) from error


def _decode_all(
    source: _Source, paths: Sequence[str], channels: int | None, image_size: int | None
) -> np.ndarray:
    """All images as uint8 ``[N, C, H, W]``; C is 3 unless every one is grey."""
    chunks = [paths[i : i + _DECODED_AT_ONCE] for i in range(0, len(paths), _DECODED_AT_ONCE)]
    num_threads = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    pool = ThreadPoolExecutor(num_threads)
    decoded: np.ndarray | None = None
    position = 0
    try:
        # Results come in the order of the files, so an error names the first bad file, always the same one.
        for images in pool.map(lambda part: [_decode(source, p, channels, image_size) for p in part], chunks):
            for image in images:
                if decoded is None:
                    decoded = np.empty((len(paths), 1, *image.shape[:2]), dtype=np.uint8)
                if image.shape[:2] != decoded.shape[2:]:
                    height, width = image.shape[:2]
                    raise UserError(
                        f"The image '{paths[position]}' in {source.label} is {height}×{width} (height×width) "
                        f"where '{paths[0]}' is {decoded.shape[2]}×{decoded.shape[3]}; make them one size or "
                        "set image_size."
                    )
                if image.ndim == 3 and decoded.shape[1] == 1:
                    decoded = np.repeat(decoded, 3, axis=1)  # the first colour image: grey is R = G = B
                decoded[position] = image if image.ndim == 2 else image.transpose(2, 0, 1)
                position += 1
    finally:
        pool.shutdown(cancel_futures=True)
    assert decoded is not None, "called without a path"
    return decoded


def _load_all(
    source: _Source, layout: _Layout, channels: int | None, image_size: int | None, name: str
) -> dict[str, ImageSet]:
    """Decodes every split together, so that they agree on size and channels."""
    listed = [
        (split, column, path)
        for split, classes in layout.splits.items()
        for column, label in enumerate(sorted(classes))
        for path in classes[label]
    ]
    pixels = torch.from_numpy(_decode_all(source, [path for _, _, path in listed], channels, image_size))
    sets, start = {}, 0
    for split, classes in layout.splits.items():
        part = [(column, path) for of, column, path in listed if of == split]
        sets[split] = ImageSet(
            pixels[start : start + len(part)],
            torch.tensor([column for column, _ in part], dtype=torch.int64),
            LabelSpace(sorted(classes)),
            files=tuple(path[len(layout.prefix) :] for _, path in part),
            name=name,
        )
        start += len(part)
    return sets


def _open(root: Path) -> _Source:
    if not root.exists():
        where = "" if root.is_absolute() else f" in {Path.cwd()}"
        raise UserError(
            f"There is no file or folder {root}{where}; set data.root to a zip or a folder of SPLIT/CLASS/FILE."
        )
    return _FolderSource(root) if root.is_dir() else _ZipSource(root)


def fingerprint(root: Path) -> str:
    """64 hex digits that name the images of a class-folder data set by their content.

    SHA-256 over relative path, size and CRC-32 of every image of every split, so a directory and a zip of it
    have the same one. A zip is judged by its central directory; the files of a directory are read once, and
    the answer is kept in the cache while their sizes and modification times stay.

    Raises:
        UserError: nothing at ``root``, or no ``SPLIT/CLASS/FILE`` in it.
    """
    with closing(_open(root)) as source:
        layout = _scan(source)
        key = f"fingerprint-{layout.fingerprint[:32]}"
        known = read_fact(key)
        if known is not None:
            return known
        digest = hashlib.sha256()
        paths = (path for classes in layout.splits.values() for files in classes.values() for path in files)
        for path in sorted(paths):
            relative = path[len(layout.prefix) :].encode("utf-8", "surrogateescape")
            digest.update(relative + f"\0{source.checksum(path)}\n".encode())
    write_fact(key, digest.hexdigest())
    return digest.hexdigest()


def load_folder(
    root: Path, split: Split, *, channels: int | None = None, image_size: int | None = None
) -> ImageSet:
    """One split of a class-folder data set.

    Args:
        root: a directory or a zip of ``SPLIT/CLASS/FILE``, where SPLIT is ``train`` and ``test`` (or
            ``val`` where there is no ``test``), perhaps inside one folder more. Files may lie deeper below
            their class. Hidden files and files that are not images are passed over.
        split: ``"train"`` or ``"test"``.
        channels: 1 (greyscale) or 3 (RGB); None takes 1 where all images of all splits are greyscale or
            1 bit, else 3.
        image_size: pixels; every image is resized to this square by PIL's (antialiased) bilinear filter,
            without keeping its aspect ratio. None asks for images of one size.

    Returns:
        The images, classes in the order of their names, files of a class in the order of theirs. Splits
        without a common class (few-shot data) each have their own label space.

    Raises:
        UserError: nothing at ``root``, a zip or an image that cannot be read (named), no such split, a
            class without images or in one of the splits only, images of several sizes.
    """
    if channels not in (None, 1, 3):
        raise UserError(
            f"Images have 1 or 3 channels, not {channels}; leave channels out to go by the files."
        )
    if image_size is not None and image_size < 1:
        raise UserError(f"The image size {image_size} is below 1; give pixels.")
    with closing(_open(root)) as source:
        layout = _scan(source)
        _check(layout, split, source.label)

        def key(part: str) -> str:
            what = (_CACHE_FORMAT, layout.fingerprint, channels, image_size, part)
            return f"images-{hashlib.sha256(repr(what).encode()).hexdigest()[:32]}"

        cached = read_cached(key(split), root.stem)
        if cached is not None:
            return cached
        sets = _load_all(source, layout, channels, image_size, root.stem)
    for part, images in sets.items():
        write_cached(key(part), images)
    return sets[split]
