"""Files in a directory or inside a zip, read in place, and the decoding of one image."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from gkd.core.errors import UserError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


Fit = Literal["stretch", "crop"]


GREY_MODES = ("1", "L", "LA")


_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")


class Source(Protocol):
    """A directory or zip of files; paths have ``/`` and are relative to the root."""

    label: str

    def entries(self) -> Iterator[tuple[str, str]]:
        """(path, stamp) of everything, folders ending in ``/``; the stamp changes with the content."""

    def read(self, path: str) -> bytes:
        """The content of a file; safe from several threads."""

    def checksum(self, path: str) -> str:
        """Size and CRC-32 of a file, the same in a zip and in a directory."""

    def close(self) -> None: ...


class ZipSource:
    """The files of a zip; their stamps are the sizes and CRCs of its central directory."""

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self.path = path
        self._process = os.getpid()
        try:
            self.archive = zipfile.ZipFile(path)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} is not a readable zip ({error}); fetch it again, or give a zip or a folder (other "
                "archives unpacked).",
                code="zip-unreadable",
            ) from error

    def entries(self) -> Iterator[tuple[str, str]]:
        for info in self.archive.infolist():
            yield info.filename, self.checksum(info.filename)

    def read(self, path: str) -> bytes:
        # A forked process shares the position in the parent's open file, so it opens the zip again.
        if os.getpid() != self._process:
            self.archive.fp, self._process = self.path.open("rb"), os.getpid()
        return self.archive.read(path)  # checks the CRC

    def checksum(self, path: str) -> str:
        info = self.archive.getinfo(path)
        return f"{info.file_size}:{info.CRC}"

    def close(self) -> None:
        self.archive.close()


class FolderSource:
    """The files of a directory; their stamps are sizes and modification times."""

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self.path = path

    def entries(self) -> Iterator[tuple[str, str]]:
        waiting = [""]
        while waiting:
            prefix = waiting.pop()
            try:
                children = list(os.scandir(self.path / prefix))
            except OSError as error:
                raise UserError(
                    f"{self.path / prefix} cannot be read ({error.strerror}).", code="data-folder-unreadable"
                ) from error
            for entry in children:
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
            raise UserError(
                f"{self.path / path} cannot be read ({error.strerror}).", code="data-file-unreadable"
            ) from error
        return f"{len(content)}:{zlib.crc32(content)}"

    def close(self) -> None: ...


def open_source(root: Path) -> Source:
    """Open a directory or a zip; the caller closes it.

    Raises:
        UserError: nothing at ``root``, or a file that is no whole zip.
    """
    if not root.exists():
        where = "" if root.is_absolute() else f" in {Path.cwd()}"
        raise UserError(
            f"There is no file or folder {root}{where}; set data.root to the zip or folder of the images.",
            code="data-root-missing",
        )
    return FolderSource(root) if root.is_dir() else ZipSource(root)


@dataclass(frozen=True)
class Tree:
    """The files and folders of a source, without hidden ones, below the single enclosing folder if there is one.

    Attributes:
        source: the open source.
        prefix: the enclosing folder with its ``/``, or "".
        stamps: path below the prefix -> stamp, sorted; folders end in ``/``.
    """

    source: Source
    prefix: str
    stamps: dict[str, str]

    @property
    def label(self) -> str:
        return self.source.label

    @property
    def shown(self) -> str:
        """The names of the first ten files and folders at the top, for a message."""
        names = sorted({path.split("/", 1)[0] for path in self.stamps})
        return ", ".join(names[:10]) or "nothing"

    def under(self, folder: str) -> list[str]:
        """The images anywhere below a folder (``"train/"``), sorted."""
        return [path for path in self.stamps if path.startswith(folder) and is_image(path)]

    def text(self, path: str, what: str) -> list[str]:
        """The lines of a text file, blank ones left out.

        Args:
            path: below the prefix.
            what: the data set and the file's role, for the message where it is missing.
        """
        if path not in self.stamps:
            raise UserError(
                f"{self.label} has no file '{path}', {what} (found: {self.shown}).", code="data-file-missing"
            )
        try:
            content = self.source.read(self.prefix + path).decode("utf-8-sig")
        except UserError:
            raise
        except (OSError, ValueError, zlib.error, zipfile.BadZipFile) as error:
            raise UserError(
                f"'{path}' in {self.label} cannot be read ({error}); fetch it again.",
                code="data-file-unreadable",
            ) from error
        return [line for line in content.splitlines() if line.strip()]


def tree_of(source: Source, marks: Sequence[str]) -> Tree:
    """Read the tree of a source.

    Args:
        source: an open source.
        marks: names of files or folders at the data set's top; where they are one folder deeper, that is the prefix.
    """
    entries = {
        path: stamp
        for path, stamp in sorted(source.entries())
        if not path.startswith(("__MACOSX/", ".")) and "/." not in path
    }
    tops = {path.split("/", 1)[0] for path in entries}
    inside = {parts[0] for path in entries if (parts := path.split("/", 2))[1:] and parts[1] in marks}
    if tops.isdisjoint(marks) and len(inside) == 1:
        prefix = f"{inside.pop()}/"
        below = {
            path.removeprefix(prefix): stamp for path, stamp in entries.items() if path.startswith(prefix)
        }
        below.pop("", None)  # the folder itself
        return Tree(source, prefix, below)
    return Tree(source, "", entries)


def is_image(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)


def converted(image: Image.Image, channels: int | None) -> Image.Image:
    """Convert an open image to mode L (grey) or RGB.

    Args:
        image: as a decoder opened it.
        channels: 1 gives grey, 3 gives RGB, None keeps grey or colour as it is.

    Raises:
        ValueError: more than 8 bits a channel.
    """
    if image.mode not in GREY_MODES + _COLOUR_MODES:
        raise ValueError(f"pixels of mode {image.mode}; only 8 bits a channel are supported")
    grey = channels == 1 or (channels is None and image.mode in GREY_MODES)
    return image.convert("L" if grey else "RGB")


@dataclass(frozen=True)
class Form:
    """The channels and the size to which images are converted when they are read.

    Attributes:
        channels: 1 gives grey, 3 gives RGB, None keeps each image grey or colour as it is.
        image_size: pixels of a square, reached by PIL's (antialiased) bilinear filter; None leaves images as they are.
        fit: ``stretch`` resizes height and width each by its own factor; ``crop`` resizes the shorter side to 8/7 of
            ``image_size`` and takes the square in the middle (256 and 224, as ImageNet's networks are judged).

    Raises:
        UserError: a number of channels or a size that no image can have.
    """

    channels: int | None = None
    image_size: int | None = None
    fit: Fit = "stretch"

    def __post_init__(self) -> None:
        if self.channels not in (None, 1, 3):
            raise UserError(
                f"Images have 1 or 3 channels, not {self.channels}; leave channels out for the data's own.",
                code="channels-out-of-range",
            )
        if self.image_size is not None and self.image_size < 1:
            raise UserError(
                f"The image size {self.image_size} is below 1; give pixels.", code="image-size-out-of-range"
            )

    def sized(self, image: Image.Image) -> Image.Image:
        """Bring an image to the size."""
        size = self.image_size
        if size is None:
            return image
        if self.fit == "crop":  # with the rounding of torchvision's Resize and CenterCrop
            shorter = round(size * 8 / 7)
            width, height = (int(shorter * side / min(image.size)) for side in image.size)
            left, top = round((width - size) / 2), round((height - size) / 2)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            return image.crop((left, top, left + size, top + size))
        if image.size == (size, size):
            return image
        return image.resize((size, size), Image.Resampling.BILINEAR)


def pixels_of(image: Image.Image, form: Form) -> np.ndarray:
    """The uint8 pixels of an open image, ``[H, W]`` or ``[H, W, 3]``.

    Raises:
        ValueError: more than 8 bits a channel.
    """
    return np.asarray(form.sized(converted(image, form.channels)))


def open_image(source: Source, path: str, channels: int | None) -> Image.Image:
    """One image at its own size, in mode L (grey) or RGB.

    Args:
        source: where it is.
        path: of the file in the source.
        channels: as of :func:`converted`.

    Raises:
        UserError: a file that cannot be decoded (named), or one of more than 8 bits a channel.
    """
    # Decoders report damage by many kinds of exception (OSError, SyntaxError, struct.error, zlib.error, …):
    # all mean that this file cannot be used.
    try:
        with Image.open(io.BytesIO(source.read(path))) as image:
            return converted(image, channels)
    except (MemoryError, UserError):
        raise
    except Exception as error:
        unidentified = isinstance(error, UnidentifiedImageError)  # whose text is the address of a buffer
        reason = "it is of no known image format" if unidentified else error
        raise UserError(
            f"The image '{path}' in {source.label} cannot be decoded ({reason}); replace it or remove it.",
            code="image-unreadable",
        ) from error


def decode(source: Source, path: str, form: Form) -> np.ndarray:
    """One image as uint8 pixels.

    Returns:
        uint8 ``[H, W]`` for grey, ``[H, W, 3]`` for RGB.

    Raises:
        UserError: as :func:`open_image`.
    """
    return np.asarray(form.sized(open_image(source, path, form.channels)))
