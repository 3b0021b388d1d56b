"""What the benchmarks of losses share: fresh processes, time and peak memory, the facts of a run, its files."""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import math
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gkd

Cell = dict[str, Any]
SLOW_SECONDS = 5.0  # a run that takes as long is not repeated, unless asked for


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Lets the peak start from what is in use now, where the system can; elsewhere earlier peaks hide small ones."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # what the warm-up freed would serve the first run without being counted
        libc.malloc_trim(0)
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """The peak of the device's allocations, or of the resident set; Linux counts that in KiB, macOS in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def teach_allocator() -> None:
    """glibc learns from the first large block it frees to keep freed memory.

    Until then it hands memory back page by page. In training the network's activations teach it; here this
    untouched block.
    """
    activations = torch.empty(31 * 2**20, dtype=torch.uint8)
    del activations


def measure(
    run: Callable[[], Tensor | None],
    repeats: int,
    device: torch.device,
    *,
    budget: float = math.inf,
    slow: float = SLOW_SECONDS,
) -> Cell:
    """The median time of several runs, the peak memory beyond what was in use before, the last value.

    The first run warms up and is not timed, unless it is the only one or already takes ``slow`` seconds, after which
    none follows. ``budget``: seconds after which no further run starts, once three are timed.
    """
    reset_peak(device)
    before, seconds, value = peak_bytes(device), [], None
    for number in range(repeats + 1):
        wait(device)
        start = time.perf_counter()
        result = run()
        wait(device)
        taken = time.perf_counter() - start
        value = None if result is None else float(result.detach())
        if number > 0 or repeats == 0 or taken > slow:
            seconds.append(taken)
        if taken > slow or (len(seconds) >= 3 and sum(seconds) > budget):
            break
    return {
        "seconds": statistics.median(seconds),
        "runs": len(seconds),
        "extra_bytes": peak_bytes(device) - before,
        "value": value,
    }


def _child(
    sender: Connection, threads: int, source: str, function: Callable[..., Cell], arguments: tuple[Any, ...]
) -> None:
    if gkd.__file__ != source:  # the server looks into the working directory first
        raise RuntimeError(f"This process measures {gkd.__file__}, not {source}; run it from that clone.")
    torch.set_num_threads(threads)
    sender.send(function(*arguments))


def in_fresh_process(function: Callable[..., Cell], *arguments: Any, threads: int) -> Cell:
    """The cell that ``function(*arguments)`` gives in a process of its own, or that the system killed it.

    The process forks from a server that has imported torch and run nothing: as clean as a new interpreter, without
    its seconds of start-up.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "gkd.experiment.prepare"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, threads, gkd.__file__, function, arguments))
    process.start()
    sender.close()
    try:
        cell: Cell = receiver.recv()
    except EOFError:
        cell = {}
    process.join()
    if process.exitcode:
        if process.exitcode > 0:
            raise RuntimeError(f"{function.__name__}{arguments} failed; its traceback stands above.")
        return {"skipped": f"killed by signal {-process.exitcode}"}
    return cell


def show(cell: Cell) -> str:
    if "seconds" not in cell:
        return f"({cell['skipped']})"
    return f"{1e3 * cell['seconds']:.1f} ms, {cell['extra_bytes'] / 2**20:.0f} MiB"


def facts(args: argparse.Namespace) -> dict[str, Any]:
    """When, with what and on what it was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "threads": args.threads,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
    }


def write(result: dict[str, Any], table: str, out: Path) -> None:
    """The result as JSON, and its table beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    out.with_suffix(".md").write_text(table + "\n")


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the result as JSON, and its table beside it")
    parser.add_argument("--repeats", type=int, default=9, help="timed runs per cell (default 9)")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads (default: all)"
    )
    return parser
