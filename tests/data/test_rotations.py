"""Rotations as classes of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gkd.core.labels import LabelSpace
from gkd.data import ImageSet
from gkd.data.rotations import unturned, with_rotations
from tests.refusals import refused


def test_every_class_stands_four_times(make_set: Callable[..., ImageSet]) -> None:
    images = make_set("ab", 6)
    turned = with_rotations(images)
    assert list(turned.space) == [
        *("a", "b"), *("a turned by 90", "b turned by 90"), *("a turned by 180", "b turned by 180"),
        *("a turned by 270", "b turned by 270"),
    ]  # fmt: skip
    assert turned.class_counts().tolist() == [3] * 8
    for turns in range(4):
        part = slice(6 * turns, 6 * turns + 6)
        assert torch.equal(turned.images[part], torch.rot90(images.images, turns, dims=(2, 3)))
        assert torch.equal(turned.labels[part], images.labels + 2 * turns)


def test_a_name_says_its_class() -> None:
    assert unturned("a turned by 270") == "a"
    assert unturned("Balinese-character01") == "Balinese-character01"


def test_what_cannot_be_turned(make_set: Callable[..., ImageSet]) -> None:
    with refused("rotations-twice"):
        with_rotations(with_rotations(make_set("ab", 6)))
    wide = ImageSet(torch.zeros(2, 1, 4, 6, dtype=torch.uint8), torch.tensor([0, 1]), LabelSpace([*"ab"]))
    with refused("images-not-square"):
        with_rotations(wide)
