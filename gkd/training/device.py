"""The device, precision and threads of this machine."""

from __future__ import annotations

import os

import torch

from gkd.core.cpus import available_cpus, whole_number
from gkd.core.errors import UserError, unknown


def choose_device(name: str) -> torch.device:
    """The device of ``run.device``; ``auto`` takes a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"run.device={name!r} is no device; use auto, cpu, cuda or cuda:N.", code="unknown-device"
        ) from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(
            f"run.device={name!r} is not supported; use auto, cpu, cuda or cuda:N.", code="unsupported-device"
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"run.device={name!r} was asked for, but this torch sees no GPU; use run.device=auto.",
            code="no-gpu",
        )
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of ``run.precision``; ``auto`` takes bf16 where the device supports it, else float32."""
    dtypes = {"float32": torch.float32, "bf16": torch.bfloat16}
    if precision in dtypes:
        return dtypes[precision]
    if precision != "auto":
        raise UserError(unknown("precision", precision, ["auto", *dtypes]), code="unknown-precision")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


_THREADS_PER_CPU = 4  # more only wait for one another


def use_threads(threads: int | None) -> int:
    """Set torch's CPU threads: ``threads``, else OMP_NUM_THREADS, else allowed CPUs // local ranks.

    Raises:
        UserError: many more threads than the machine has CPUs, which would keep it from all else.
    """
    name = "run.threads" if threads is not None else "OMP_NUM_THREADS"
    if threads is None:
        threads = whole_number("OMP_NUM_THREADS") or available_cpus()
    most = min(_THREADS_PER_CPU * (os.cpu_count() or 1), 1024)
    if threads > most:
        raise UserError(
            f"{name}={threads} is too many for the {os.cpu_count() or 1} CPUs of this machine; set at most {most}.",
            code="too-many-threads",
        )
    torch.set_num_threads(threads)
    return threads
