"""Tiny CLIPs with random weights, registered with open_clip as its own are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
_VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
_RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}


def register(folder: Path) -> None:
    """Let open_clip know ``gkd-tiny-vit`` and ``gkd-tiny-resnet``, of embeddings of 16 numbers."""
    for name, vision in (("vit", _VIT), ("resnet", _RESNET)):
        config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": _TEXT}
        (folder / f"gkd-tiny-{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def whole(name: str, path: Path | None = None) -> Any:
    """A CLIP with both towers, also written to a file."""
    torch.manual_seed(0)
    model = open_clip.create_model(name, load_weights=False).eval()
    if path is not None:
        save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path)
    return model
