"""Checkpoints that are whole or absent.

A checkpoint is one folder: weights as safetensors, optimiser and generator state as a file that
``torch.load(weights_only=True)`` reads, and a manifest of SHA-256 sums. It is written aside, synced
and renamed as a whole; the last two are kept; a damaged one is passed over for the one before.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.storage.checksums import json_sha256, sha256
from gkd.storage.safetensors_format import write_safetensors
from gkd.storage.weights import plain_tensors, read_weights
from gkd.storage.whole_files import sync, write_failure

_KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's content: named weight sets, plain-tensor state, and facts as JSON."""

    folder: Path
    weights: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    facts: dict[str, Any]


def save_checkpoint(
    parent: Path,
    number: int,
    *,
    weights: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Path:
    """Write ``parent/<number>`` as a whole and remove all but the last two.

    Args:
        parent: the run's checkpoint folder.
        number: the global step; later checkpoints have larger numbers.
        weights: name -> state dict; each becomes ``<name>.safetensors``.
        state: optimiser and generator state: tensors, numbers, strings, lists and dicts only.
        facts: JSON-serialisable position and metrics, kept in the manifest.

    Raises:
        UserError: the disk is full or not writable; the checkpoint before stays whole.
    """
    final = parent / f"{number:09d}"
    aside = parent / f".{number:09d}.tmp"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for stale in parent.glob(".*.tmp"):  # what a kill left behind
            _remove(stale)
        aside.mkdir()
        for name, tensors in weights.items():
            write_safetensors(aside / f"{name}.safetensors", plain_tensors(tensors), {})
        memory = io.BytesIO()  # torch's own writer reports a full disk as an internal error
        torch.save(dict(state), memory)
        (aside / "state.pt").write_bytes(memory.getvalue())
        sums = {path.name: sha256(path) for path in sorted(aside.iterdir())}
        content = {"files": sums, "facts": dict(facts)}
        (aside / "manifest.json").write_text(
            json.dumps({**content, "sha256": json_sha256(content)}, indent=1, allow_nan=False)
        )
        for path in aside.iterdir():
            sync(path)
        sync(aside)
        if final.exists():  # the same step saved again, such as by Ctrl-C right after an epoch
            os.replace(final, parent / f".{number:09d}.old.tmp")
        os.replace(aside, final)
        sync(parent)
        shutil.rmtree(parent / f".{number:09d}.old.tmp", ignore_errors=True)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise UserError(write_failure(parent, error), code="write-failed") from None
    # Checkpoints above this one are damaged: the run went back to one before them.
    good = [folder for folder in _numbered(parent) if int(folder.name) <= number][-_KEEP:]
    for folder in _numbered(parent):
        if folder not in good:
            shutil.rmtree(folder, ignore_errors=True)
    return final


def latest_checkpoint(parent: Path, passed_over: Callable[[Path], object] | None = None) -> Checkpoint | None:
    """The newest checkpoint whose sums are right; None without any.

    Args:
        parent: the run's checkpoint folder.
        passed_over: is called with each damaged one that is newer.
    """
    for folder in reversed(_numbered(parent)):
        checkpoint = _read(folder)
        if checkpoint is not None:
            return checkpoint
        if passed_over is not None:
            passed_over(folder)
    return None


def _read(folder: Path) -> Checkpoint | None:
    """A checkpoint; None where it is damaged."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        names, facts = manifest["files"], manifest["facts"]
        if manifest["sha256"] != json_sha256({"files": names, "facts": facts}):
            return None
        if any(sha256(folder / name) != expected for name, expected in names.items()):
            return None
        weights = {
            Path(name).stem: read_weights(folder / name)[0] for name in names if name.endswith(".safetensors")
        }
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except UserError:  # unreadable with the right sums is no damage: an older checkpoint is no better
        raise
    except (pickle.UnpicklingError, EOFError, RuntimeError):
        raise UserError(
            f"{folder / 'state.pt'} is no state that gkd wrote; remove {folder}, or give another run.out.",
            code="checkpoint-unreadable",
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Checkpoint(folder, weights, state, facts)


def _remove(path: Path) -> None:
    """Remove a folder with its content, a file, or a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _numbered(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.name.isdecimal())
