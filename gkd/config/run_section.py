"""The run section of an experiment file: length, seed and machine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from gkd.config.section import HomePath, Section


class Run(Section):
    """Length, seed and machine of a run; only epochs, extend, seed, precision and deterministic name it.

    Attributes:
        epochs: of all stages together, in the method's proportions; None takes the published length.
        extend: goes on from the end of the longest finished run that has fewer epochs and is the same otherwise, though
            its schedules were those of a shorter run; the result is another than from scratch, and another run.
        seed: of initial weights, order, augmentation and adapters; each has its folder ``seedN`` under one identity.
        precision: ``bf16`` where the machine has instructions for it (``auto``), or as said.
        deterministic: torch's deterministic algorithms alone, for the same bits on CUDA.
        device: ``cpu``, ``cuda``, ``cuda:1``, or the accelerator where there is one (``auto``).
        threads: of the CPU; None takes the allowed CPUs, shared among the processes of the machine.
        out: the folder of all runs.
        checkpoint_seconds: at most so much work is lost by a kill.
        log_seconds: between two progress lines, where the output is no terminal.
        cache_gb: memory for a teacher's outputs on the views of ``data.views``.
        teacher_cache: where a teacher's outputs on the views of ``data.views`` are kept: in ``memory``, until the
            command ends, or on ``disk``, below ``GKD_CACHE``, for all runs, seeds, grids and processes after it.
        teacher_cache_precision: ``bf16`` keeps the outputs of a float32 run in half the bytes, rounded; the result is
            another, and another run. ``own`` keeps them as the teacher gives them in the run's precision.
        allow_changed: what may differ when an interrupted run goes on; its bits can then be others.
    """

    epochs: int | None = Field(default=None, ge=1)
    extend: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Literal["auto", "float32", "bf16"] = "auto"
    deterministic: bool = False
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1, le=1024)
    out: HomePath = Path("runs")
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    log_seconds: float = Field(default=10.0, ge=0)
    cache_gb: float = Field(default=8.0, gt=0)
    teacher_cache: Literal["memory", "disk"] = "memory"
    teacher_cache_precision: Literal["own", "bf16"] = "own"
    allow_changed: tuple[Literal["versions", "threads", "device"], ...] = ()
