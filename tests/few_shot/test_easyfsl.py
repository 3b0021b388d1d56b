"""Batches of episodes have the shapes and the meaning that easyfsl documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gkd.core.labels import LabelSpace
from gkd.data import ImageSet, load_images
from gkd.data.episodes import Episodes, draw_episodes
from gkd.few_shot.easyfsl import episode_batches


@pytest.fixture
def images() -> ImageSet:
    """Of each image the first pixel is its number."""
    pixels = torch.zeros(60, 3, 4, 5, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(60)
    return ImageSet(pixels, torch.arange(60) * 7 % 6, LabelSpace([f"c{k}" for k in range(6)]))


def draw(images: ImageSet, shots: int = 2, queries: int = 5) -> Episodes:
    return draw_episodes(images.labels, count=8, ways=3, shots=shots, queries=queries, seed=0)


def test_shapes_and_dtypes(images: ImageSet) -> None:
    batches = list(episode_batches(images, draw(images)))
    assert len(batches) == 8
    for support_images, support_labels, query_images, query_labels, true_class_ids in batches:
        assert support_images.shape == (3 * 2, 3, 4, 5)
        assert query_images.shape == (3 * 5, 3, 4, 5)
        assert (support_labels.shape, query_labels.shape) == ((3 * 2,), (3 * 5,))
        assert support_images.dtype == query_images.dtype == torch.float32
        assert support_labels.dtype == query_labels.dtype == torch.int64
        assert len(true_class_ids) == 3
        assert all(type(number) is int for number in true_class_ids)


def test_a_label_is_the_place_of_its_class_and_the_images_are_those_of_the_episodes(images: ImageSet) -> None:
    episodes = draw(images)
    seen = set()
    for number, (own, own_labels, asked, asked_labels, ids) in enumerate(episode_batches(images, episodes)):
        for batch, labels, index in (
            (own, own_labels, episodes.support[number]),
            (asked, asked_labels, episodes.query[number]),
        ):
            numbers = (batch[:, 0, 0, 0] * 255).round().long()
            assert torch.equal(numbers, index.flatten())
            assert torch.equal(torch.tensor(ids)[labels], images.labels[numbers])
        seen.update(ids)
    assert len(seen) > 3


def test_a_transform_gets_the_pixels(images: ImageSet) -> None:
    first = next(episode_batches(images, draw(images), transform=lambda pixels: pixels))
    assert first[0].dtype == first[2].dtype == torch.uint8
    assert torch.equal(first[0], images.images[draw(images).support[0].flatten()])


def test_streamed_images_are_read_as_those_in_memory(
    make_files: Callable[..., dict[str, bytes]], write_tree: Callable[..., Path]
) -> None:
    root = write_tree(make_files(train=["ant", "bee", "cat"], test=["ant", "bee", "cat"]))
    held, streamed = (load_images("folder", "train", root=root, memory_gb=limit) for limit in (1, 0))
    assert streamed.streamed
    episodes = draw(held, shots=1, queries=2)
    for one, other in zip(episode_batches(held, episodes), episode_batches(streamed, episodes), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:4], other[:4], strict=True))
