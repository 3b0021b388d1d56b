"""Tensors of many rows in one safetensors file: written a few rows at a time, read as a memory map.

A file states its version, the memory layout of its rows and a checksum over everything in it.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import shutil
import warnings
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gkd.storage.safetensors_format import DTYPES, safetensors_header

FORMAT = "gkd rows 1"
SPARED = 2**30  # bytes of the disk that are left to checkpoints and to other programs
_NO_CHECKSUM = "0" * 8


class Unusable(Exception):
    """A file that is damaged or of another version; its text says which, as in "The file is …"."""


def write_rows(
    path: Path,
    chunks: Iterable[Mapping[str, Tensor]],
    num_rows: int,
    about: Mapping[str, str],
    *,
    copies: int = 1,
) -> None:
    """Write tensors of ``num_rows`` rows, which come in chunks: the same names, the next rows of each.

    Args:
        path: the file; written in place, so an aside of ``replace_whole``.
        chunks: on any device. What is read back has the memory layout that ``torch.cat`` of all chunks has.
        num_rows: of all chunks together.
        about: of the header.
        copies: the number of files of this size that the disk must have room for.

    Raises:
        OSError: a disk without room, before the second chunk is asked for, or a file that cannot be written.
    """
    with path.open("wb") as file:
        layouts: dict[str, _Layout] = {}
        for chunk in chunks:
            if not layouts:
                layouts = {name: _Layout.of(values) for name, values in chunk.items()}
                header, positions = _header(layouts, num_rows, about)
                checksums = dict.fromkeys(positions, 0)
                _check_room(path.parent, copies, sum(num_rows * layout.size for layout in layouts.values()))
                file.write(header)
            for name, values in chunk.items():
                flat = layouts[name].flat(values)
                file.seek(positions[name])
                file.write(flat)
                positions[name] += len(flat)
                checksums[name] = zlib.crc32(flat, checksums[name])
        file.seek(0)
        file.write(header.replace(_stated(_NO_CHECKSUM), _stated(_checksum(header, checksums))))


def read_rows(path: Path, num_rows: int, about: Mapping[str, str]) -> dict[str, Tensor]:
    """Map a file of ``write_rows`` into memory; its pages are read when they are used, and once for the checksum.

    A file that is removed or replaced stays readable where it is mapped.

    Args:
        path: the file.
        num_rows: that it must have.
        about: what its header must say.

    Returns:
        The tensors, into which nobody may write.

    Raises:
        FileNotFoundError: there is none.
        Unusable: it is damaged, of another version, or about something else.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise Unusable("damaged")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Whatever is wrong with a file, the answer is the same, so every exception counts as damage.
    try:
        length = 8 + int.from_bytes(mapped[:8], "little")
        content = json.loads(mapped[8:length])
        metadata = content.pop("__metadata__")
        version = metadata["format"]
    except Exception:
        raise Unusable("damaged") from None
    if version != FORMAT:
        raise Unusable("of another version")
    try:
        tensors = _tensors(mapped, length, content, metadata, num_rows)
    except Exception:
        raise Unusable("damaged") from None
    if any(metadata.get(key) != value for key, value in about.items()):
        raise Unusable("of another content than its name says")
    return tensors


@dataclass(frozen=True)
class _Layout:
    """The rows of one tensor, dense in memory: their type, their shape and the strides within a row."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, values: Tensor) -> _Layout:
        """That which ``torch.cat`` gives such chunks, which need not be dense."""
        values = torch.cat([values])
        return cls(values.dtype, tuple(values.shape[1:]), tuple(values.stride()[1:]))

    @property
    def length(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of a row."""
        return self.length * self.dtype.itemsize

    def flat(self, values: Tensor) -> memoryview:
        """The bytes of rows in this layout."""
        rows = torch.empty_strided((len(values), *self.shape), (self.length, *self.strides), dtype=self.dtype)
        rows.copy_(values)
        return rows.as_strided((rows.numel(),), (1,)).view(torch.uint8).numpy().data

    def rows(self, raw: Tensor, num_rows: int) -> Tensor:
        """The tensor of bytes in this layout."""
        return raw.view(self.dtype).as_strided((num_rows, *self.shape), (self.length, *self.strides))


def _header(
    layouts: Mapping[str, _Layout], num_rows: int, about: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """The bytes in front of the tensors, without a checksum, and where each of them starts."""
    layout = {name: [each.shape, each.strides] for name, each in layouts.items()}
    metadata = {**about, "format": FORMAT, "layout": json.dumps(layout), "checksum": _NO_CHECKSUM}
    shapes = {name: (each.dtype, (num_rows, each.length)) for name, each in layouts.items()}
    return safetensors_header(shapes, metadata)


def _check_room(folder: Path, copies: int, size: int) -> None:
    if shutil.disk_usage(folder).free < copies * size + SPARED:
        raise OSError(
            errno.ENOSPC,
            f"{copies * size / 2**30:.3g} GiB are needed, and {SPARED / 2**30:g} GiB are left to other files",
        )


def _stated(checksum: str) -> bytes:
    """A checksum as it stands in a header."""
    return f'"checksum":"{checksum}"'.encode()


def _checksum(header: bytes, checksums: Mapping[str, int]) -> str:
    """Eight hex digits over a header that has none yet and the tensors' own, in the order of the file."""
    text = " ".join(f"{name} {checksums[name]:08x}" for name in sorted(checksums))
    return f"{zlib.crc32(text.encode(), zlib.crc32(header)):08x}"


def _tensors(
    mapped: mmap.mmap, length: int, content: Mapping[str, Any], metadata: Mapping[str, str], num_rows: int
) -> dict[str, Tensor]:
    with warnings.catch_warnings():  # that nobody may write into it
        warnings.simplefilter("ignore")
        whole = torch.frombuffer(mapped, dtype=torch.uint8)
    layout = json.loads(metadata["layout"])
    tensors, checksums, last = dict[str, Tensor](), dict[str, int](), 0
    for name, entry in content.items():
        start, last = entry["data_offsets"]
        raw = whole[length + start : length + last]
        if entry["shape"][0] != num_rows:
            raise ValueError(name)
        checksums[name] = zlib.crc32(raw.numpy().data)
        shape, strides = layout[name]
        tensors[name] = _Layout(DTYPES[entry["dtype"]], tuple(shape), tuple(strides)).rows(raw, num_rows)
    header = mapped[:length].replace(_stated(metadata["checksum"]), _stated(_NO_CHECKSUM))
    if _checksum(header, checksums) != metadata["checksum"] or length + last != len(whole):
        raise ValueError("checksum")
    return tensors
