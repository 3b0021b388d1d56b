"""open_clip's image towers: random weights of tiny configurations, as its own are registered."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gkd.core.labels import LabelSpace
from gkd.models import build_network, count_parameters
from gkd.models.class_names import TEMPLATE, english_name, vectors_of_names
from gkd.models.image_sizes import nearest_sizes, takes_images
from gkd.models.load import load_network
from gkd.models.pretrained import describe, pretrained_file
from gkd.storage.weight_sets import WeightFile
from tests.clip_helpers import register, whole
from tests.library_caches import empty_caches
from tests.refusals import refused

VIT, RESNET = "open_clip/gkd-tiny-vit", "open_clip/gkd-tiny-resnet"


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(tmp_path)
    monkeypatch.setenv("GKD_CACHE", str(tmp_path / "cache"))


def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def tower(path: Path | WeightFile, name: str = VIT, side: int = 32) -> Any:
    loaded = load_network(path, network=name, num_classes=1, head="none", image_shape=(3, side, side))
    return loaded.network.eval()


@pytest.mark.parametrize("name", [VIT, RESNET])
def test_a_whole_clips_image_features_are_the_embedding(name: str, tmp_path: Path) -> None:
    clip = whole(name[10:], tmp_path / "w.safetensors")
    network = tower(tmp_path / "w.safetensors", name)
    with torch.no_grad():
        features = network.features(images())
        assert torch.equal(features.embedding, clip.encode_image(images()))
    assert not features.logits.any()  # nobody reads them
    assert count_parameters(network.module.visual) == count_parameters(clip.visual)
    assert not any("text" in key or "token" in key for key in network.state_dict())


def test_a_file_of_the_tower_alone_is_as_good(tmp_path: Path) -> None:
    clip = whole("gkd-tiny-vit")
    torch.save({"state_dict": clip.visual.state_dict()}, tmp_path / "tower.pt")
    with torch.no_grad():
        expected = clip.encode_image(images())
        assert torch.equal(tower(tmp_path / "tower.pt").features(images()).embedding, expected)


def test_token_maps_and_stage_ends_are_tapped() -> None:
    shapes = {}
    for name in (VIT, RESNET):
        network = build_network(name, num_classes=3).eval()
        with torch.no_grad():
            shapes[name] = [tuple(values.shape[1:]) for values in network.features(images()).maps]
    assert shapes[VIT] == [(32, 4, 4)] * 2
    assert shapes[RESNET] == [(32, 8, 8), (64, 4, 4), (128, 2, 2), (256, 1, 1)]
    tapped = build_network(VIT, num_classes=3).eval()
    tokens: list[Tensor] = []
    block = tapped.module.visual.transformer.resblocks[-1]
    block.register_forward_hook(lambda _module, _inputs, output: tokens.append(output))
    with torch.no_grad():
        last = tapped.features(images()).maps[-1]
    assert torch.equal(last.flatten(2).transpose(1, 2), tokens[0][:, 1:])  # without the class token


def test_a_tower_that_gives_its_tokens_too_is_read_for_its_features() -> None:
    network = build_network(VIT, num_classes=3).eval()
    with torch.no_grad():
        expected = network(images())
        network.module.visual.output_tokens = True  # as CoCa's
        assert torch.equal(network(images()), expected)


def test_a_size_that_its_patch_does_not_divide_has_neighbours() -> None:
    for name, step in ((VIT, 8), (RESNET, 32)):
        assert not takes_images(name, {}, (3, 70, 70))
        assert nearest_sizes(name, {}, (3, 70, 70)) == (70 // step * step, (70 // step + 1) * step)
    assert build_network(VIT, num_classes=2, image_size=64)(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_the_weights_say_how_images_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openai, laion = describe("open_clip/ViT-B-32"), describe("open_clip/ViT-B-32", "laion2b_s34b_b79k")
    assert (openai.weights, openai.image_size, openai.interpolation, openai.num_classes) == (
        "openai",
        224,
        "bicubic",
        0,
    )
    assert openai.mean == (0.48145466, 0.4578275, 0.40821073)
    assert (openai.options, laion.options) == ({"quick_gelu": True}, {})
    assert describe("open_clip/ViT-B-32-quickgelu", "openai").options == {}
    empty_caches(tmp_path, monkeypatch)
    with refused("weights-not-fetched"):
        pretrained_file(describe("open_clip/RN50"))


def test_fetched_weights_are_those_of_the_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = whole("gkd-tiny-vit")
    empty_caches(tmp_path, monkeypatch)
    monkeypatch.setattr("gkd.models.pretrained.whole_clip", lambda *_about: clip)
    description = describe("open_clip/ViT-B-32")
    with torch.no_grad():
        embedding = tower(pretrained_file(description)).features(images()).embedding
        assert torch.equal(embedding, clip.encode_image(images()))
    grey = pretrained_file(description, in_channels=1).sets[""]["visual.conv1.weight"]
    assert grey.shape[1] == 1


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("open_clip/ViT-B-23", {}, "unknown-network"),
        ("open_clip/gkd-tiny-vit", {"pretrained": "x.pth"}, "unknown-option"),
    ],
)
def test_what_open_clip_does_not_have_is_a_sentence(name: str, options: dict[str, Any], code: str) -> None:
    with refused(code):
        build_network(name, num_classes=2, **options)


def test_unknown_weights_name_the_closest() -> None:
    with refused("unknown-weights"):
        describe("open_clip/RN50x4", "opneai")


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with refused("package-missing"):
        build_network("open_clip/ViT-B-32", num_classes=2)


def test_quick_gelu_is_another_function() -> None:
    outputs = []
    for gelu in (False, True):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(build_network(VIT, num_classes=2, quick_gelu=gelu).eval()(images()))
    assert not torch.equal(*outputs)


def test_the_text_tower_reads_the_names_of_classes_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    clip, space = whole("gkd-tiny-vit", path), LabelSpace(["n01443537", "polar_bear"])
    about: dict[str, Any] = {"network": VIT, "weights": path, "options": {}}
    found = vectors_of_names(space, **about)
    import open_clip

    prompts = open_clip.get_tokenizer("gkd-tiny-vit")(["a photo of a goldfish.", "a photo of a polar bear."])
    with torch.no_grad():
        torch.testing.assert_close(found.vectors, clip.encode_text(prompts))
    other = vectors_of_names(space, **about, template="a sketch of {}")
    assert not torch.equal(found.vectors, other.vectors)
    monkeypatch.setattr("gkd.models.class_names.clip_file", None)  # from the cache, and not computed again
    assert torch.equal(vectors_of_names(space, **about, template=TEMPLATE).vectors, found.vectors)
    assert english_name("n01443537_fish") == "goldfish"


def test_a_network_without_a_text_tower_is_a_sentence(tmp_path: Path) -> None:
    with refused("no-text-tower"):
        vectors_of_names(LabelSpace(["a"]), network="resnet8", weights=tmp_path, options={})
    torch.save(whole("gkd-tiny-vit").visual.state_dict(), tmp_path / "tower.pt")
    with refused("no-text-tower"):
        vectors_of_names(LabelSpace(["a"]), network=VIT, weights=tmp_path / "tower.pt", options={})
