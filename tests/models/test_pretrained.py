"""The weights that torchvision and timm publish: from their caches, where files of random weights stand here."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from gkd.models.pretrained import LABEL_SETS, describe, described_as_built, label_set, pretrained_file
from tests.library_caches import empty_caches, in_hubs_cache, in_torchs_cache
from tests.refusals import refused


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_caches(tmp_path, monkeypatch)


def same(ours: dict[str, Tensor], theirs: nn.Module) -> bool:
    state = theirs.state_dict()
    return ours.keys() == state.keys() and all(torch.equal(ours[key], value) for key, value in state.items())


def test_what_a_library_says_of_its_weights_is_known_without_fetching_them(caches: Path) -> None:
    resnet = describe("torchvision/resnet50", "IMAGENET1K_V1")
    assert (resnet.weights, resnet.image_size, resnet.label_set) == ("IMAGENET1K_V1", 224, "imagenet-1k")
    assert resnet.mean == (0.485, 0.456, 0.406)
    assert describe("torchvision/resnet50").weights == "IMAGENET1K_V2"  # its default
    assert describe("torchvision/resnet50", "DEFAULT") == describe("torchvision/resnet50")
    lite = describe("timm/tf_efficientnet_lite0")
    assert (lite.mean, lite.weights, lite.label_set, lite.licence) == (
        (0.5,) * 3,
        "in1k",
        "imagenet-1k",
        "apache-2.0",
    )
    dino = describe("timm/vit_small_patch14_dinov2.lvd142m")
    assert (dino.num_classes, dino.label_set, dino.image_size) == (0, None, 518)
    assert described_as_built("resnet8") is None
    assert not any(caches.iterdir())


def test_weights_come_out_of_torchvisions_cache(caches: Path) -> None:
    theirs = get_model("resnet18", weights=None)
    in_torchs_cache(caches, "resnet18-f37072fd.pth", theirs)
    file = pretrained_file(describe("torchvision/resnet18"))
    assert same(file.sets[""], theirs)
    grey = pretrained_file(describe("torchvision/resnet18"), in_channels=1).sets[""]
    assert torch.equal(grey["conv1.weight"], theirs.conv1.weight.sum(1, keepdim=True))


def test_weights_come_out_of_timms_cache_and_timm_adapts_them(caches: Path) -> None:
    theirs = timm.create_model("resnet10t", pretrained=False)
    in_hubs_cache(caches, "timm/resnet10t.c3_in1k", theirs)
    assert same(pretrained_file(describe("timm/resnet10t")).sets[""], theirs)
    assert same(pretrained_file(describe("timm/resnet10t", "c3_in1k")).sets[""], theirs)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    in_hubs_cache(caches, "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", vit)
    small = pretrained_file(describe("timm/vit_tiny_patch16_224"), options={"img_size": 32}).sets[""]
    assert small["pos_embed"].shape == (1, 5, 192)  # one class token and 2×2 patches


def test_weights_that_cannot_be_fetched_are_a_sentence(caches: Path) -> None:
    for network in ("torchvision/resnet18", "timm/resnet10t"):
        with refused("weights-not-fetched") as caught:
            pretrained_file(describe(network))
        assert "checkpoint=FILE" in str(caught.value)
        assert "https://" in str(caught.value)


@pytest.mark.parametrize(
    ("network", "which", "code"),
    [
        ("timm/resnet10t", "c3_in2k", "unknown-weights"),
        ("torchvision/resnet18", "IMAGENET1K_V9", "unknown-weights"),
        ("timm/resnet10t.c3_in1k", "other", "weights-twice"),
        ("resnet8", True, "no-pretrained-weights"),
        ("timm/resnet10x", True, "unknown-network"),
    ],
)
def test_weights_that_no_library_knows_are_refused(network: str, which: bool | str, code: str) -> None:
    with refused(code):
        describe(network, which)


def test_a_label_set_names_the_columns_by_wordnets_ids() -> None:
    names = label_set("imagenet-1k")
    assert (len(names), names[0], names[1]) == (1000, "n01440764", "n01443537")
    assert all(len(set(label_set(name))) == len(label_set(name)) for name in LABEL_SETS)
    with refused("unknown-label-set"):
        label_set("imagenet-2k")
