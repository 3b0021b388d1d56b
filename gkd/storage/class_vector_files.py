"""Files of class vectors: safetensors with a tensor ``[D]`` under each class's name."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from gkd.core.class_vectors import ClassVectors
from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.storage.safetensors_format import write_safetensors
from gkd.storage.whole_files import replace_whole

CLASSES = "classes"  # in the header, a JSON list: of the rows of a file's one matrix


def read_class_vectors(path: Path) -> ClassVectors:
    """Read the vectors of class names.

    Args:
        path: a .safetensors file of tensors ``[D]`` under the names; or of one matrix ``[N, D]``, whose header states
            ``classes``, a JSON list of the names of its rows.

    Raises:
        UserError: no such file, one of another layout, or values that are not finite.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
        names = list(tensors)
        if CLASSES in header and len(tensors) == 1:
            names, rows = json.loads(header[CLASSES]), list(next(iter(tensors.values())))
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"its {CLASSES} are no list of names")
        else:
            rows = list(tensors.values())
        if (
            len(names) != len(rows)
            or not rows
            or any(row.dim() != 1 or row.shape != rows[0].shape for row in rows)
        ):
            raise ValueError("other shapes")
        vectors = torch.stack([row.float() for row in rows])
    except FileNotFoundError:
        raise UserError(f"teacher.names: there is no file {path}.", code="file-missing") from None
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise UserError(
            f"teacher.names: {path} is no file of class vectors ({error}); it is a .safetensors file with a tensor [D] "
            "under each class's name.",
            code="file-unreadable",
        ) from None
    if not bool(torch.isfinite(vectors).all()):
        raise UserError(
            f"teacher.names: {path} holds values that are not finite; write it anew.",
            code="weights-not-finite",
        )
    return ClassVectors(LabelSpace(names), vectors, f"teacher.names {path}")


def write_class_vectors(path: Path, vectors: ClassVectors) -> None:
    """Write the vectors of class names, as a whole or not at all: a tensor ``[D]`` in float32 under each name."""
    tensors = {
        name: row.float().cpu().contiguous() for name, row in zip(vectors.space, vectors.vectors, strict=True)
    }
    replace_whole(path, lambda aside: write_safetensors(aside, tensors, {}))
