"""The environment that a result depends on besides its config: versions, machine, commit, command."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import torch

from gkd.core.version import VERSION

_PACKAGES = ("torch", "torchvision", "numpy")


class Environment(TypedDict):
    """The environment that a result depends on, as it goes into env.json and the summary."""

    versions: dict[str, str]
    threads: int
    device: str
    precision: str
    commit: str | None


def environment(threads: int, device: torch.device, dtype: torch.dtype) -> Environment:
    """Versions, threads, device, precision and commit."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "versions": {"gkd": VERSION, "python": platform.python_version(), **_versions()},
        "threads": threads,
        "device": f"{device.type}: {name}",
        "precision": str(dtype).removeprefix("torch."),
        "commit": commit(),
    }


def command() -> str:
    """The command line that started this process, with the program's name alone."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of the clone that gkd runs from, with ``+`` where tracked files differ; None in a wheel."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=folder, capture_output=True, text=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {package: version(package) for package in _PACKAGES}
