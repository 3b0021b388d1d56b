"""Torch files, read with ``weights_only=True`` and within the memory that their own size allows."""

from __future__ import annotations

import argparse
import pickle
import re
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gkd.core.errors import UserError

# torch stores its members unpacked; a program that packs them anew makes a file of weights a little smaller.
_UNPACKED = 10  # times a file's own size
_SMALL = 2**26  # bytes that any file may take


def read_torch_file(path: Path) -> Any:
    """The content of a torch file: tensors, numbers and strings in dicts and lists.

    Of other objects only two are read, and none of their code runs: an ``argparse.Namespace``, in which training
    scripts keep their arguments, and NumPy's scalars, which become plain numbers.

    Raises:
        UserError: an unreadable or unsafe file, or one that unpacks to more memory than its size allows.
    """
    _check_members(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *_NUMPY]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that torch did not write; the error names them
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _unreadable(path, _reason(error)) from None


def allowed_bytes(path: Path) -> int:
    """The memory that the tensors of a file may take together: of views of one value it can be any."""
    return max(_UNPACKED * path.stat().st_size, _SMALL)


def _check_members(path: Path) -> None:
    """Refuse a zip with a member that is encrypted, or whose members unpack to far more than the file's size."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise _unreadable(path, "it is cut short, or its zip archive is damaged.") from None
    encrypted = next((member.filename for member in members if member.flag_bits & 1), None)
    if encrypted is not None:
        raise _unreadable(
            path, f"its member {encrypted!r} is encrypted; unpack it, and save the state dict by torch.save."
        )
    unpacked = sum(member.file_size for member in members)
    if unpacked > allowed_bytes(path):
        raise _unreadable(
            path,
            f"its members unpack to {unpacked / 2**30:.1f} GiB from a file of {path.stat().st_size / 2**20:.1f} MiB, "
            "which no file of weights does; save the state dict anew by torch.save.",
        )


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(
        f"The checkpoint {path} cannot be read as plain weights: {reason}", code="checkpoint-unreadable"
    )


def _reason(error: Exception) -> str:
    """Why torch could not read a file, as the end of a sentence: other objects than tensors, or damage."""
    text = " ".join(str(error).split())
    named = re.search(r"GLOBAL (\S+)", text) or re.search(r"Unsupported class (\S+)", text)
    if named is not None:
        return (
            f"it holds {named[1]}, and to load such an object can run code; save the state dict alone, as in "
            "torch.save(model.state_dict(), FILE)."
        )
    if "TorchScript" in text:
        return (
            "it is a TorchScript program, not weights; save the state dict alone: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW)."
        )
    if ".tar format" in text:
        return "it is a tar file of a torch before 0.4; load it there, and save its state dict by torch.save."
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return "it asks for more memory than there is."
    if "Unsupported operand" in text or "weights_only" in text:
        return (
            "it is a pickle of something else than weights, or of another protocol than torch.save's own; save the "
            "state dict alone by torch.save."
        )
    return f"it is cut short, or is no file of torch.save ({text[:120] or type(error).__name__})."


class _Kind:
    """The kind of a NumPy scalar as its pickle states it; stands for ``numpy.dtype``, whose code does not run."""

    def __init__(self, code: str, _align: bool = False, _copy: bool = True) -> None:
        if not isinstance(code, str) or re.fullmatch(r"[biufcSU]\d{1,4}", code) is None:
            raise pickle.UnpicklingError(f"Unsupported class numpy.dtype({str(code)[:20]})")
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        self.order = order if order in ("<", ">") else "="


def _number(kind: Any, content: Any) -> Any:
    """A NumPy scalar's bytes as a plain number or string; stands for ``numpy.core.multiarray.scalar``."""
    dtype = np.dtype(kind.order + kind.code) if isinstance(kind, _Kind) else None
    content = content.encode("latin1") if isinstance(content, str) else content
    if dtype is None or not isinstance(content, bytes) or len(content) != dtype.itemsize:
        raise pickle.UnpicklingError("Unsupported class numpy.core.multiarray.scalar")
    return np.frombuffer(content, dtype)[0].item()


def _named(stand_in: Any, module: str, name: str) -> Any:
    """A stand-in under the name that a pickle gives: torch knows what it may call by module and name."""
    if isinstance(stand_in, type):
        copy: Any = type(name, (stand_in,), {"__module__": module})
    else:
        copy = types.FunctionType(stand_in.__code__, stand_in.__globals__, name)
        copy.__module__ = module
    copy.__qualname__ = name
    return copy


_NUMPY = [
    _named(_Kind, "numpy", "dtype"),
    *(_named(_number, f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
]
