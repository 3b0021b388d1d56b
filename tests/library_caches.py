"""The caches of torchvision and timm, with files of random weights in them, on a machine without a connection."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn


def empty_caches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let both libraries look for their weights below a folder, and fetch none."""
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("torch.hub.download_url_to_file", _offline)
    return folder


def _offline(*_about: object, **_named: object) -> None:
    raise OSError("no connection")


def in_torchs_cache(caches: Path, file: str, module: nn.Module) -> None:
    folder = caches / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(module.state_dict(), folder / file)


def in_hubs_cache(caches: Path, repository: str, module: nn.Module) -> None:
    folder = caches / "hub" / f"models--{repository.replace('/', '--')}"
    commit = "0" * 40
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    state = {key: tensor.contiguous() for key, tensor in module.state_dict().items()}
    save_file(state, folder / "snapshots" / commit / "model.safetensors")
