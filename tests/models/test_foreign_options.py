"""Options that a weight file states build a network; those that could name a file are the user's own to state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from gkd.models import build_network
from gkd.models.foreign_options import refused_options
from gkd.models.load import load_network
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weights import save_weights
from tests.network_helpers import VIT
from tests.refusals import refused

TIMM = "timm/vit_tiny_patch16_224"
OWN = "own:net"


@pytest.mark.parametrize(
    ("network", "options", "refused_keys"),
    [
        (TIMM, {**VIT, "global_pool": "avg", "drop_path_rate": 0.1, "depths": [2, 2]}, []),
        (TIMM, {"pretrained_window_sizes": [7, 7], "use_checkpoint": True, "qk_norm": None}, []),
        (TIMM, {"checkpoint_path": "x.pth", "img_size": 8}, ["checkpoint_path"]),
        (TIMM, {"pretrained_cfg": {"file": "x.pth"}}, ["pretrained_cfg"]),
        (TIMM, {"pretrained_cfg_overlay": {"file": "x"}}, ["pretrained_cfg_overlay"]),
        (TIMM, {"cache_dir": "here"}, ["cache_dir"]),
        (TIMM, {"pretrained": True, "pretrained_strict": False}, ["pretrained", "pretrained_strict"]),
        (TIMM, {"file": "x", "global_pool": "../x.pth", "act_layer": "a.b"}, ["file", "global_pool", "act_layer"]),
        (TIMM, {"anything_new": "word", "block_args": {"path": 1}}, ["anything_new", "block_args"]),
        ("torchvision/resnet18", {"weights_backbone": "DEFAULT", "zero_init_residual": True}, ["weights_backbone"]),
        (OWN, {"variant": "small", "deep": True, "nested": {"width": 3}}, []),
        (OWN, {"variant": "small.pth", "weights": "small", "model_url": "x"}, ["variant", "weights", "model_url"]),
        (OWN, {"body": {"checkpoint": "x", "depth": 2}, "names": ["a", "/b"]}, ["body.checkpoint", "names"]),
        (OWN, {"pretrained": True}, ["pretrained"]),
        ("resnet8", {"last_relu": False, "head": "cosine"}, []),
    ],
)  # fmt: skip
def test_only_numbers_and_harmless_words_are_taken(
    network: str, options: dict[str, Any], refused_keys: list[str]
) -> None:
    assert [key for key, _ in refused_options(network, options)] == refused_keys


def test_a_header_makes_no_library_open_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The factory is not even called; the user's own word for the same options is enough."""
    state = build_network(TIMM, num_classes=2, **VIT).state_dict()
    evil, path = tmp_path / "evil.pth", tmp_path / "w.safetensors"
    torch.save(state, evil)
    options = {**VIT, "checkpoint_path": str(evil)}
    save_weights(path, state, WeightMetadata(network=TIMM, classes=("a", "b"), options=options).to_header())
    called: list[dict[str, Any]] = []
    create = timm.create_model

    def watched(*names: str, **keywords: Any) -> Any:
        called.append(keywords)
        return create(*names, **keywords)

    monkeypatch.setattr(timm, "create_model", watched)
    with refused("untrusted-options"):
        load_network(path)
    with refused("untrusted-options"):
        load_network(path, network=TIMM, section="student")
    assert called == []
    load_network(path, network=TIMM, options=options)
    assert called[0]["checkpoint_path"] == str(evil)


def test_the_floor_of_timm_reads_its_checkpoints_by_weights_only(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "harmed",)

    torch.save({"state_dict": {"w": Harm()}}, tmp_path / "evil.pth")
    with pytest.raises(RuntimeError):
        timm.create_model("resnet10t", checkpoint_path=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "harmed").exists()
