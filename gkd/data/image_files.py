"""Files in a directory or inside a zip, read in place."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gkd.core.errors import UserError
from gkd.core.memory import gigabytes

# The ends of the names of images; what a file holds decides how it is decoded.
EXTENSIONS = (
    ".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
# Photographs that gkd does not decode.
UNREAD = (
    ".arw", ".avif", ".cr2", ".cr3", ".dib", ".dng", ".heic", ".heif", ".j2k", ".jp2", ".jxl", ".nef", ".orf",
    ".raf", ".rw2", ".tga",
)  # fmt: skip


class Source(Protocol):
    """A directory or zip of files; paths have ``/`` and are relative to the root."""

    label: str

    def entries(self) -> Iterator[tuple[str, str]]:
        """(path, stamp) of everything, folders ending in ``/``; the stamp changes with the content."""

    def read(self, path: str) -> bytes:
        """The content of a file; safe from several threads."""

    def version(self, path: str) -> str:
        """What changes when a file is written anew, from its directory entry; of a zip that of the whole archive."""

    def close(self) -> None: ...


class ZipSource:
    """The files of a zip; their stamps are the sizes and CRCs of its central directory."""

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self.path = path
        self._process = os.getpid()
        try:
            self._version = _version_of(path.stat())
            self.archive = zipfile.ZipFile(path)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} is not a readable zip ({error}); fetch it again, or give a zip or a folder (other "
                "archives unpacked).",
                code="zip-unreadable",
            ) from error

    def entries(self) -> Iterator[tuple[str, str]]:
        for info in self.archive.infolist():
            yield info.filename, f"{info.file_size}:{info.CRC}"

    def read(self, path: str) -> bytes:
        _check_size(self.archive.getinfo(path).file_size, path, self.label)
        # A forked process shares the position in the parent's open file, so it opens the zip again.
        if os.getpid() != self._process:
            self.archive.fp, self._process = self.path.open("rb"), os.getpid()
        return self.archive.read(path)  # checks the CRC

    def version(self, path: str) -> str:
        return self._version  # what its directory says of a file can be forged

    def close(self) -> None:
        self.archive.close()


class FolderSource:
    """The files of a directory; their stamps are sizes and modification times.

    Args:
        path: the directory, which may itself be reached by a link.
        follow_links: take files and folders that are links to somewhere outside the directory.
    """

    def __init__(self, path: Path, *, follow_links: bool = False) -> None:
        self.label = str(path)
        self.path = path
        self._real = os.path.realpath(path)
        self._follow_links = follow_links
        self._versions: dict[str, str] = {}

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
                path = f"{prefix}{entry.name}"
                if entry.is_symlink():
                    if entry.name.startswith("."):
                        continue
                    self._check_link(path)
                if entry.is_dir():
                    waiting.append(f"{path}/")
                    yield f"{path}/", ""
                elif entry.is_file():
                    status = entry.stat()
                    self._versions[path] = _version_of(status)
                    yield path, f"{status.st_size}:{status.st_mtime_ns}"

    def _check_link(self, path: str) -> None:
        """Refuse a link out of the directory, unless it is asked for, and one to a folder that holds it."""
        target = os.path.realpath(self.path / path)
        if not self._follow_links and not f"{target}/".startswith(f"{self._real}/"):
            raise UserError(
                f"{self.path / path} is a link to {target}, outside the images at {self.path}; copy what it names, or "
                "take such links with data.follow_links=true (of the teacher's images teacher.data.follow_links).",
                code="link-outside",
            )
        if f"{os.path.realpath((self.path / path).parent)}/".startswith(f"{target}/"):
            raise UserError(
                f"{self.path / path} is a link to {target}, the folder that it is in; remove it.",
                code="link-circle",
            )

    def read(self, path: str) -> bytes:
        file = self.path / path
        _check_size(file.stat().st_size, path, self.label)
        return file.read_bytes()

    def version(self, path: str) -> str:
        return self._versions[path] if path in self._versions else _version_of((self.path / path).stat())

    def close(self) -> None: ...


_LARGEST_FILE = 2**29  # bytes, before anything is read; no image or list of a data set is larger


def _check_size(size: int, path: str, label: str) -> None:
    if size > _LARGEST_FILE:
        raise UserError(
            f"'{path}' in {label} is {gigabytes(size)} large, where no image or list of a data set has more than "
            f"{gigabytes(_LARGEST_FILE)}; remove it.",
            code="data-file-too-large",
        )


def _version_of(status: os.stat_result) -> str:
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"


def open_source(root: Path, *, follow_links: bool = False) -> Source:
    """Open a directory or a zip; the caller closes it.

    Args:
        root: the directory or zip.
        follow_links: take files of a directory that are links to somewhere outside it.

    Raises:
        UserError: nothing at ``root``, or a file that is no whole zip.
    """
    if not root.exists():
        where = "" if root.is_absolute() else f" in {Path.cwd()}"
        raise UserError(
            f"There is no file or folder {root}{where}; set data.root to the zip or folder of the images.",
            code="data-root-missing",
        )
    return FolderSource(root, follow_links=follow_links) if root.is_dir() else ZipSource(root)


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
        # A RuntimeError is of an encrypted file, or one that is packed in a way that Python does not know.
        except (OSError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
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
