"""A teacher's pass in parts that fit into the memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gkd.core.network import Features
from gkd.distill import chunks
from gkd.distill.chunks import peak_bytes
from gkd.distill.teacher import Teacher
from gkd.models import build_network


def test_the_peak_is_of_what_lives_at_one_time() -> None:
    images = torch.zeros(1, 4, 16, 16)
    wide, narrow = (nn.Conv2d(4, channels, 3, padding=1) for channels in (32, 2))
    unit = 16 * 16 * 4  # bytes of one channel
    assert peak_bytes(lambda: wide(images)) == 32 * unit
    assert peak_bytes(lambda: narrow(images).relu().relu().relu()) == 4 * unit  # two maps at most
    assert peak_bytes(lambda: narrow(images).flatten(1).view(2, 16, 16)) == 2 * unit  # views take nothing
    assert peak_bytes(lambda: nn.functional.relu(narrow(images), inplace=True)) == 2 * unit
    assert peak_bytes(lambda: images.view(4, 256)) == 0  # nor does what was there before


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that a teacher's network is shown."""
    sizes: list[int] = []
    features = type(build_network("resnet8", num_classes=3)).features

    def watched(self: nn.Module, images: Tensor) -> Features:
        sizes.append(len(images))
        return features(self, images)

    monkeypatch.setattr(type(build_network("resnet8", num_classes=3)), "features", watched)
    return sizes


def test_a_batch_that_does_not_fit_goes_through_in_parts(
    seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network, images = build_network("resnet8", num_classes=3).eval(), torch.randn(7, 3, 32, 32)
    whole = Teacher(network).features(images)
    assert seen == [7]
    one = peak_bytes(lambda: network.features(images[:1]))  # type: ignore[operator]
    seen.clear()
    monkeypatch.setattr(chunks, "available_memory", lambda: int(3.5 * one / 0.8))
    teacher = Teacher(network)
    parts = teacher.features(images)
    assert seen == [1, 3, 3, 1]  # one image tells what a pass takes
    for found, expected in zip(
        (parts.logits, parts.embedding, *parts.maps),
        (whole.logits, whole.embedding, *whole.maps),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(teacher(images), whole.logits)
    for free, sizes in ((0, [1, 1, 1, 1, 1, 1, 1, 1]), (8 * 2 * one, [1, 7]), (None, [7])):
        seen.clear()
        monkeypatch.setattr(chunks, "available_memory", lambda free=free: free)
        Teacher(network).features(images)
        assert seen == sizes
