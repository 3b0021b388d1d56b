"""Batches of labelled and unlabelled samples: their shares, their rounds, each a function of its address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gkd.core.batch import NO_LABEL, Batch
from gkd.data import Batches, ImageSet, Look, MixedBatches, load_unlabelled, unlabelled_rows
from tests.refusals import refused

Make = Callable[..., ImageSet]
LOOK = Look((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "crop-flip")
WITH, WITHOUT = 6, 4  # rows of a batch


def no_labels(images: ImageSet) -> ImageSet:
    return replace(images, labels=torch.full_like(images.labels, NO_LABEL), name="bare")


def mixed(images: ImageSet, bare: ImageSet, look: Look = LOOK, **settings: Any) -> MixedBatches:
    one = {"seed": 1, "stage": 2, **settings}
    first = Batches(images, look, batch_size=WITH, **one)
    return MixedBatches(first, Batches(bare, look, batch_size=WITHOUT, first=len(images), **one))


def same(one: Batch, other: Batch) -> bool:
    parts = ("images", "labels", "numbers", "labelled")
    return all(getattr(one, part).equal(getattr(other, part)) for part in parts)


def test_an_epoch_is_one_pass_over_the_labelled_samples(make_images: Make) -> None:
    """Unlabelled ones go on where the epoch before stopped, each once before any comes again, none twice in a batch."""
    images, bare = make_images(25), no_labels(make_images(14, seed=1))
    batches = mixed(images, bare)
    assert len(batches) == 4
    epochs = [list(batches.epoch(number)) for number in range(3)]
    for epoch in epochs:
        numbers = torch.cat([batch.numbers[:WITH] for batch in epoch])
        assert len(set(numbers.tolist())) == 24
        for batch in epoch:
            assert batch.labelled is not None
            assert batch.labelled.tolist() == [True] * WITH + [False] * WITHOUT
            assert batch.labels[:WITH].equal(images.labels[batch.numbers[:WITH]])
            assert set(batch.labels[WITH:].tolist()) == {NO_LABEL}
    drawn = torch.stack([batch.numbers[WITH:] - 25 for epoch in epochs for batch in epoch])
    for start in range(0, 12, 3):  # 14 images fill 3 batches; 2 sit a round out
        assert len(set(drawn[start : start + 3].flatten().tolist())) == 12
    assert not drawn[:3].equal(drawn[3:6])


def test_a_batch_is_a_function_of_its_address(make_images: Make) -> None:
    images, bare = make_images(25), no_labels(make_images(14, seed=1))
    torch.manual_seed(0)
    whole = list(mixed(images, bare).epoch(2))
    torch.manual_seed(9)
    again = mixed(images, bare)
    next(iter(again.epoch(0)))
    assert all(same(*pair) for pair in zip(whole[3:], again.epoch(2, start=3), strict=True))
    assert not same(whole[0], next(mixed(images, bare, seed=2).epoch(2)))
    assert not same(whole[0], next(mixed(images, bare, stage=3).epoch(2)))


def test_samples_of_both_kinds_are_augmented_apart(make_images: Make) -> None:
    """The same image is cut otherwise where it stands among the unlabelled ones, for its number is another."""
    images = make_images(25)
    (batch,) = mixed(images, no_labels(images)).of([torch.tensor([*range(3), *range(25, 28)])], epoch=0)
    assert not batch.images[:3].equal(batch.images[3:])


def test_boxes_of_streamed_samples_are_drawn_by_their_numbers(
    make_images: Make, encoded: Callable[..., bytes], write_tree: Callable[..., Path]
) -> None:
    root = write_tree({f"{number}.png": encoded(number) for number in range(3)})
    bare = load_unlabelled(root, make_images(), memory_gb=0)
    look = replace(LOOK, augment="random-resized-crop")
    one, other = (
        next(Batches(bare, look, batch_size=3, seed=1, first=first).of([torch.arange(3)], epoch=0))
        for first in (0, 25)
    )
    assert not one.images.equal(other.images)
    assert other.numbers.tolist() == [25, 26, 27]


def test_samples_by_number_come_as_in_an_epoch(make_images: Make) -> None:
    """As a teacher's outputs are computed once: chunk by chunk over all samples, whatever kind a chunk holds."""
    images, bare = make_images(10), no_labels(make_images(9, seed=1))
    batches = mixed(images, bare, views=2)
    assert len(batches.images) == 19
    others = mixed(images, no_labels(make_images(9, seed=2))), mixed(make_images(10, seed=3), bare)
    assert len({each.images.fingerprint() for each in (batches, *others)}) == 3
    chunks = torch.arange(19).split(4)
    parts = list(batches.of(chunks, epoch=1))
    assert torch.cat([part.numbers for part in parts]).tolist() == list(range(19))
    labelled = torch.cat([part.labelled for part in parts if part.labelled is not None])
    assert labelled.tolist() == [True] * 10 + [False] * 9
    pixels = torch.cat([part.images for part in parts])
    for batch in batches.epoch(1):
        assert batch.images.equal(pixels[batch.numbers])


def test_the_order_of_an_epoch_is_that_of_its_batches(make_images: Make) -> None:
    batches = mixed(make_images(10), no_labels(make_images(9)))
    numbers = torch.cat([batch.numbers for batch in batches.epoch(1)])
    assert torch.equal(batches.order(1), numbers)


@pytest.mark.parametrize("workers", [0, 2])
def test_unlabelled_samples_from_disk_are_the_same(
    make_images: Make, encoded: Callable[..., bytes], write_tree: Callable[..., Path], workers: int
) -> None:
    root = write_tree({f"{number % 2}/{number}.png": encoded(number) for number in range(9)})
    images = make_images(12)
    look = replace(LOOK, augment="crop-flip+cutout")
    in_memory = mixed(images, load_unlabelled(root, images), look)
    streamed = load_unlabelled(root, images, memory_gb=0, workers=workers)
    assert streamed.streamed
    pairs = zip(in_memory.epoch(1), mixed(images, streamed, look).epoch(1), strict=True)
    assert all(same(*pair) for pair in pairs)


def test_a_teachers_view_is_mixed_too(make_images: Make) -> None:
    images, bare = make_images(12), no_labels(make_images(8, seed=1))
    teacher = replace(LOOK, augment="none")
    sets = [replace(each, teacher_images=each.images[:, :1].repeat(1, 1, 2, 2)) for each in (images, bare)]
    look = Look((0.5,), (0.2,), "none")
    for pair, theirs, shape in ((sets, look, (10, 1, 16, 16)), ([images, bare], teacher, (10, 3, 8, 8))):
        batch = next(mixed(*pair, teacher=theirs).epoch(0))
        assert batch.view is not None
        assert batch.view.shape == shape
    # Of named teachers each has its own view, of the same rows.
    sets = [replace(each, views={"large": each.images.repeat(1, 1, 2, 2)}) for each in (images, bare)]
    batches = mixed(*sets, named={"large": replace(LOOK, augment="none"), "alike": teacher})
    batch = next(batches.epoch(0))
    assert batch.view is None
    assert [batch.views[name].shape for name in ("large", "alike")] == [(10, 3, 16, 16), (10, 3, 8, 8)]
    torch.testing.assert_close(batch.views["large"][..., :8, :8], batch.views["alike"])
    assert batches.images.seen_by("large").fingerprint() != batches.images.seen_by("alike").fingerprint()


def test_a_share_leaves_rows_of_both_kinds(make_images: Make) -> None:
    bare = no_labels(make_images(14))
    assert [unlabelled_rows(10, share, bare) for share in (0.5, 0.25, 0.9)] == [5, 2, 9]
    with refused("share-out-of-range"):
        unlabelled_rows(4, 0.1, bare)
    with refused("share-out-of-range"):
        unlabelled_rows(4, 0.95, bare)
    with refused("too-few-images"):
        unlabelled_rows(64, 0.5, bare)
