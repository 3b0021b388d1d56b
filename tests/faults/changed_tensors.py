"""State dicts as others save them, spoil them, or lay traps in them."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def _prefixed(prefix: str) -> Callable[[Tensors], Any]:
    return lambda tensors: {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _under(key: str) -> Callable[[Tensors], Any]:
    return lambda tensors: {key: dict(tensors), "epoch": 3}


# Around the same tensors: what training scripts write.
CONTAINERS: dict[str, Callable[[Tensors], Any]] = {
    "bare": dict,
    "ordered": collections.OrderedDict,
    **{
        f"under {key!r}": _under(key)
        for key in ("model", "state_dict", "net", "model_state_dict", "network", "params", "student", "weights", "a.b")
    },
    **{
        f"prefix {prefix!r}": _prefixed(prefix)
        for prefix in ("module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "net.", "model.", "backbone.")
    },
    "beside an optimiser": lambda tensors: {
        "state_dict": dict(tensors), "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "args": None,
    },
    "beside a namespace": lambda tensors: {"model": dict(tensors), "args": argparse.Namespace(lr=0.1)},
    "beside a NumPy scalar": lambda tensors: {"model": dict(tensors), "best_acc": np.float64(75.0)},
    "twice": lambda tensors: {"model": dict(tensors), "model_ema": dict(tensors)},
    "parameters": lambda tensors: {
        name: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    },
    "deep": lambda tensors: {"model": {"model": {"model": {"state_dict": dict(tensors)}}}},
}  # fmt: skip


def _with(change: Callable[[Tensor], Any]) -> Callable[[Tensors, str], Any]:
    return lambda tensors, name: {**tensors, name: change(tensors[name])}


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype)


# Of one tensor, by its name: what makes it another file.
TENSOR_CHANGES: dict[str, Callable[[Tensors, str], Any]] = {
    **{
        f"as {dtype}": _with(partial(_as, dtype=dtype))
        for dtype in (
            torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool, torch.complex64,
            torch.float8_e4m3fn,
        )
    },
    "quantised": _with(lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8)),
    "sparse": _with(lambda x: x.to_sparse()),
    "nested": _with(lambda x: torch.nested.nested_tensor([x.float().flatten()])),
    "meta": _with(lambda x: x.to("meta")),
    "with another axis": _with(lambda x: x[None]),
    "flat": _with(lambda x: x.flatten()),
    "without entries": _with(lambda x: x.flatten()[:0]),
    "NaN": _with(lambda x: torch.full_like(x, torch.nan) if x.is_floating_point() else x),
    "inf": _with(lambda x: torch.full_like(x, torch.inf) if x.is_floating_point() else x),
    "huge": _with(lambda x: torch.full_like(x, 1e30) if x.is_floating_point() else x),
    "no tensor": _with(lambda x: x.tolist()),
    "none": _with(lambda x: None),
    "left out": lambda tensors, name: {key: x for key, x in tensors.items() if key != name},
    "under another name": lambda tensors, name: {("x" if key == name else key): x for key, x in tensors.items()},
    "under no name": lambda tensors, name: {("" if key == name else key): x for key, x in tensors.items()},
    "under a number": lambda tensors, name: {(7 if key == name else key): x for key, x in tensors.items()},
    "beside another": lambda tensors, name: {**tensors, f"{name}.more": torch.zeros(3)},
    "alone": lambda tensors, name: tensors[name],
    "in a list": lambda tensors, name: [tensors],
    "nothing": lambda tensors, name: {},
}  # fmt: skip


class _Runs:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


def pickled_code(canary: Path) -> dict[str, _Runs]:
    """Objects that make a file where they are unpickled."""
    return {
        "os.system": _Runs(os.system, f"touch '{canary}'"),
        "open": _Runs(open, str(canary), "w"),
        "exec": _Runs(exec, f"open({str(canary)!r}, 'w').close()"),
        "eval": _Runs(eval, f"open({str(canary)!r}, 'w').close()"),
        "os.mkdir": _Runs(os.mkdir, str(canary)),
        "torch.save": _Runs(torch.save, 0, str(canary)),
    }


def with_code(how: str, tensors: Tensors, canary: Path, *, zipped: bool) -> bytes:
    """A torch file, of the new format or the old, whose state dict stands beside such an object."""
    content = {"state_dict": dict(tensors), "args": argparse.Namespace(run=pickled_code(canary)[how])}
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue() if zipped or how != "exec" else pickle.dumps(content)
