"""Sizes that a library's network takes: it is made for those of the images, or they are refused with the nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torchvision.models import vit_b_16

from gkd.config.schema import Teacher
from gkd.core.labels import LabelSpace
from gkd.core.tapped import output_shapes
from gkd.data import ImageSet
from gkd.experiment.networks import given_weights
from gkd.models.image_sizes import nearest_sizes, options_for_images, takes_images
from gkd.models.load import build_for_images
from gkd.models.pretrained import describe, pretrained_file
from tests.library_caches import empty_caches, in_hubs_cache, in_torchs_cache
from tests.refusals import refused

SMALL = {"embed_dim": 24, "depth": 1, "num_heads": 2}
VIT = "timm/vit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("name", "options", "side", "sizes"),
    [
        (VIT, SMALL, 100, (96, 112)),
        (VIT, SMALL, 8, (16,)),
        (VIT, {**SMALL, "img_size": 160}, 100, (160,)),  # what the user states is kept
        ("timm/test_vit", {}, 100, (96, 112)),  # takes any number of patches by itself
        ("torchvision/alexnet", {}, 16, (63,)),
    ],
)
def test_a_size_that_is_not_taken_has_neighbours_that_are(
    name: str, options: dict[str, Any], side: int, sizes: tuple[int, ...]
) -> None:
    assert not takes_images(name, options, (3, side, side))
    assert nearest_sizes(name, options, (3, side, side)) == sizes
    for size in sizes:
        assert takes_images(name, options, (3, size, size))


def test_a_transformer_is_made_for_the_size_of_its_images() -> None:
    state = torch.get_rng_state()
    assert options_for_images(VIT, SMALL, (3, 32, 32)) == {**SMALL, "img_size": 32}
    for name, options in (
        (VIT, {"img_size": 64}),
        ("timm/test_vit", {}),
        ("timm/resnet10t", {}),
        (VIT, SMALL),
    ):
        side = 224 if options == SMALL else 32
        assert options_for_images(name, options, (3, side, side)) == options
    assert torch.equal(torch.get_rng_state(), state)  # runs keep their bits
    network = build_for_images(
        VIT, num_classes=3, in_channels=1, image_shape=(1, 32, 32), options=SMALL, taps={}
    )
    assert output_shapes(network, (1, 32, 32)).maps[-1] == (24, 2, 2)


def test_the_librarys_weights_are_resampled_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = empty_caches(tmp_path, monkeypatch)
    in_hubs_cache(caches, "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", timm.create_model(VIT[5:]))
    section = Teacher(network=VIT, pretrained=True)
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    images = ImageSet(pixels, torch.zeros(1, dtype=torch.int64), LabelSpace(["a"]))
    assert given_weights(section, images).sets[""]["pos_embed"].shape == (1, 5, 192)


@pytest.mark.full
def test_torchvisions_weights_are_resampled_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_torchs_cache(empty_caches(tmp_path, monkeypatch), "vit_b_16-c867db91.pth", vit_b_16())
    file = pretrained_file(describe("torchvision/vit_b_16"), options={"image_size": 32})
    assert file.sets[""]["encoder.pos_embedding"].shape == (1, 5, 768)


@pytest.mark.parametrize(
    ("section", "key"), [("teacher", "teacher.image_size"), ("student", "data.image_size")]
)
def test_the_sentence_names_the_key_and_both_sizes(section: str, key: str) -> None:
    with refused("images-not-taken") as caught:
        build_for_images(
            VIT,
            num_classes=3,
            in_channels=3,
            image_shape=(3, 100, 100),
            options=SMALL,
            taps={},
            section=section,
        )
    assert str(caught.value).endswith(f"set {key} to the nearest that it takes, 96 or 112.")
    with refused("images-not-taken") as caught:
        build_for_images(
            VIT, num_classes=3, in_channels=3, image_shape=(3, 100, 100),
            options={**SMALL, "img_size": 160}, taps={}, section=section,
        )  # fmt: skip
    assert "its option img_size=160" in str(caught.value)


def test_a_map_without_pixels_is_a_sentence() -> None:
    class Shrinking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.head = torch.nn.ZeroPad2d(-2), torch.nn.Linear(3, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.cut(images).sum(dim=(2, 3)))

    from gkd import tap

    network = tap(Shrinking(), maps=["cut"])
    assert output_shapes(network, (3, 5, 5)).maps == ((3, 1, 1),)
    with refused("images-not-taken"):
        output_shapes(network, (3, 4, 4))
