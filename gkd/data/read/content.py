"""The content of a data set of image files: fingerprints that name it, and whether any image is turned when read.

Every file is read once. What it held is remembered in the cache folder by its path, size, modification time and
inode, so that a second start, and one after a few files have changed, reads no other.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from gkd.core.cpus import available_cpus
from gkd.core.errors import UserError
from gkd.core.text import decoded
from gkd.data.decoding import is_turned
from gkd.data.image_files import Source
from gkd.data.read.decoded_cache import read_text, write_text
from gkd.data.read.layouts import scan
from gkd.data.read.listing import FOLDERS, Listing
from gkd.data.read.origins import open_set

SHA256, CRC = "sha256:", "crc:"


_READ_AT_ONCE = 256  # files


_FORMAT = "1"  # raise it when the same files would give other facts


@dataclass(frozen=True)
class Content:
    """What the image files of a data set hold.

    Attributes:
        sha256: ``sha256:`` and 64 hex digits over the path and the SHA-256 of every image of every split, and over its
            split and class where the path does not give them; the same of a directory and of a zip of it.
        crc: 64 hex digits likewise over sizes and CRC-32, by which earlier versions named images.
        turned: how many images state an EXIF orientation other than upright.
        unreadable: how many files cannot be read; they are named where they are decoded.
    """

    sha256: str
    crc: str
    turned: int
    unreadable: int = 0

    def is_named(self, fingerprint: str) -> bool:
        """Whether a fingerprint, of either kind, is of these images."""
        if fingerprint.startswith(SHA256):
            return fingerprint == self.sha256
        return fingerprint.removeprefix(CRC) == self.crc


class _File(NamedTuple):
    """What one file holds: ``sha256`` is empty where it cannot be read."""

    version: str
    sha256: str
    crc: str
    turned: bool


def content_of(source: Source, listing: Listing) -> Content:
    """The content of a listing's files, from the cache where none has changed since they were read."""
    # The stamp is over the paths in their order, which the versions follow.
    versions = {path: source.version(path) for part in listing.splits.values() for path in part.files}
    of_all = hashlib.sha256("\n".join([listing.stamp, *versions.values()]).encode())
    key = f"content-{_FORMAT}-{of_all.hexdigest()[:32]}"
    known = read_text(key)
    if known is not None:
        return Content(**json.loads(known))
    files = _files(source, versions)
    rows = sorted((path, split, name) for split, name, path in listing.rows())
    by_sha256, by_crc = hashlib.sha256(), hashlib.sha256()
    for path, split, name in rows:
        relative = listing.shown(path)
        folder, _, rest = relative.partition("/")
        in_path = folder in FOLDERS[split] and decoded(rest).startswith(f"{name}/")
        about = (relative if in_path else f"{relative}\0{split}\0{name}").encode("utf-8", "surrogateescape")
        by_sha256.update(about + f"\0{files[path].sha256}\n".encode())
        by_crc.update(about + f"\0{files[path].crc}\n".encode())
    content = Content(
        f"{SHA256}{by_sha256.hexdigest()}",
        by_crc.hexdigest(),
        turned=sum(file.turned for file in files.values()),
        unreadable=sum(not file.sha256 for file in files.values()),
    )
    if not content.unreadable:  # which may be readable at the next start, without a change of the file
        write_text(key, json.dumps(asdict(content)))
    return content


def _files(source: Source, versions: dict[str, str]) -> dict[str, _File]:
    """What each file holds; those that have not changed since the last start are not read again."""
    key = f"files-{_FORMAT}-{hashlib.sha256(os.path.realpath(source.label).encode()).hexdigest()[:32]}"
    known = {path: _File(*facts) for path, facts in json.loads(read_text(key) or "{}").items()}
    files = {
        path: known[path]
        for path, version in versions.items()
        if path in known and known[path].version == version
    }
    missing = [path for path in versions if path not in files]
    files |= dict(zip(missing, _read(source, missing, versions), strict=True))
    write_text(key, json.dumps({path: file for path, file in files.items() if file.sha256}))
    return files


def _read(source: Source, paths: list[str], versions: dict[str, str]) -> Iterator[_File]:
    """Read files, several at once; in the order of their paths."""
    chunks = [paths[i : i + _READ_AT_ONCE] for i in range(0, len(paths), _READ_AT_ONCE)]

    def of_chunk(chunk: list[str]) -> list[_File]:
        return [_read_one(source, path, versions[path]) for path in chunk]

    with ThreadPoolExecutor(min(4, available_cpus())) as pool:
        for files in pool.map(of_chunk, chunks):
            yield from files


def _read_one(source: Source, path: str, version: str) -> _File:
    try:
        content = source.read(path)
    except (UserError, OSError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile):
        return _File(version, "", "unreadable", False)
    crc = f"{len(content)}:{zlib.crc32(content)}"
    return _File(version, hashlib.sha256(content).hexdigest(), crc, is_turned(content))


def content_at(root: Path | str, name: str = "folder", *, follow_links: bool = False) -> Content:
    """The content of a data set of image files.

    Args:
        root: its directory or zip.
        name: its layout, a key of ``LAYOUTS``.
        follow_links: as of :func:`gkd.data.image_files.open_source`.

    Raises:
        UserError: nothing at ``root``, or files that are not in the layout of ``name``.
    """
    with closing(open_set(name, Path(root), follow_links=follow_links)) as source:
        return content_of(source, scan(name, source))


def fingerprint(root: Path | str, name: str = "folder", *, follow_links: bool = False) -> str:
    """``sha256:`` and 64 hex digits that identify the images and classes of a data set of image files by content.

    Arguments and errors as of :func:`content_at`.
    """
    return content_at(root, name, follow_links=follow_links).sha256
