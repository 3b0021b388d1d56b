"""Files of a transformer in its library's layout, shown to images of another size than it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torchvision.models import VisionTransformer

from gkd.models.load import load_network
from tests.clip_helpers import register, whole

SMALL: dict[str, Any] = {"embed_dim": 24, "depth": 1, "num_heads": 2}
VIT = "timm/vit_tiny_patch16_224"


def saved(module: nn.Module, path: Path, prefix: str = "") -> Path:
    torch.save({f"{prefix}{key}": value for key, value in module.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
def test_timms_positions_are_resampled_by_timm(prefix: str, tmp_path: Path) -> None:
    theirs = timm.create_model(VIT[5:], num_classes=3, img_size=64, **SMALL)
    path = saved(theirs, tmp_path / "w.pth", prefix)
    loaded = load_network(path, network=VIT, num_classes=3, options=SMALL, image_shape=(3, 32, 32))
    theirs.set_input_size((32, 32))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.network.eval()(images), theirs.eval()(images))
    (note,) = loaded.notes
    assert note.endswith("its position embeddings are resampled for images of 32 pixels")
    same = load_network(
        path, network=VIT, num_classes=3, options={**SMALL, "img_size": 64}, image_shape=(3, 64, 64)
    )
    assert same.notes == ()


def test_open_clips_positions_are_resampled_by_open_clip(tmp_path: Path) -> None:
    register(tmp_path)
    clip = whole("gkd-tiny-vit", tmp_path / "w.safetensors")
    import open_clip

    larger = open_clip.create_model(
        "gkd-tiny-vit", pretrained=str(tmp_path / "w.safetensors"), force_image_size=64
    )
    about: dict[str, Any] = {"num_classes": 1, "head": "none", "image_shape": (3, 64, 64)}
    loaded = load_network(tmp_path / "w.safetensors", network="open_clip/gkd-tiny-vit", **about)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = loaded.network.eval().features(images).embedding  # type: ignore[operator]
        torch.testing.assert_close(found, larger.eval().encode_image(images))
    assert len(loaded.notes) == 1
    assert clip.visual.positional_embedding.shape == (17, 32)


def test_torchvisions_positions_are_resampled_by_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a small network under the name of one of torchvision's."""

    def small(*, image_size: int = 224, num_classes: int = 3, weights: None = None) -> VisionTransformer:
        return VisionTransformer(image_size, 16, 1, 2, 24, 48, num_classes=num_classes)

    monkeypatch.setattr("torchvision.models.get_model", lambda _name, **options: small(**options))
    path = saved(small(), tmp_path / "w.pth")
    loaded = load_network(path, network="torchvision/vit_b_16", num_classes=3, image_shape=(3, 32, 32))
    assert loaded.network.module.encoder.pos_embedding.shape == (1, 5, 24)  # type: ignore[union-attr]
    assert len(loaded.notes) == 1
