"""Write safetensors files in which equal tensors and metadata are equal bytes.

The format: eight bytes with the header's length, little-endian; the header, a JSON object padded with spaces to a
multiple of eight; the tensors' bytes, in C order. The library's own writer orders the metadata anew each time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gkd.core.errors import UserError

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def safetensors_header(
    tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    """The bytes in front of tensors of these types and shapes, and where in the file each of them starts.

    Larger items come first, so that every tensor is aligned, and then the names in their order.

    Raises:
        UserError: a type that the format, as gkd writes it, does not have.
    """
    for name, (dtype, _) in tensors.items():
        if dtype not in _NAMES:
            raise UserError(
                f"{name} is of type {str(dtype).removeprefix('torch.')}, which a weight file cannot hold; use a "
                "network whose state is real or whole numbers.",
                code="unknown-dtype",
            )
    order = sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    starts, end = {}, 0
    for name in order:
        dtype, shape = tensors[name]
        starts[name], end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [starts[name], end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    text = len(text).to_bytes(8, "little") + text
    return text, {name: len(text) + start for name, start in starts.items()}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, on the CPU and contiguous, and the metadata of the header; an empty one is left out.

    Raises:
        UserError: a tensor of a type that the format, as gkd writes it, does not have.
    """
    header, starts = safetensors_header(
        {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}, metadata
    )
    with path.open("wb") as file:
        file.write(header)
        for name in starts:
            file.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
