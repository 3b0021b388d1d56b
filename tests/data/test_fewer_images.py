"""Validation splits and few images per class: disjoint, stratified, independent of the other classes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gkd.core.labels import LabelSpace
from gkd.data import ImageSet, limit_per_class, split_validation
from gkd.data.fewer_images import evened
from gkd.incremental.memory import choose_exemplars
from tests.refusals import refused

Make = Callable[..., ImageSet]


def names(images: ImageSet) -> list[str]:
    assert images.files is not None
    return list(images.files)


def test_limit_is_stratified_and_in_order(make_images: Make) -> None:
    images = make_images(40, 4)
    few = limit_per_class(images, 3, seed=0)
    assert few.class_counts().tolist() == [3, 3, 3, 3]
    positions = [names(images).index(name) for name in names(few)]
    assert positions == sorted(positions)
    assert names(few) == names(limit_per_class(images, 3, seed=0))
    assert names(few) != names(limit_per_class(images, 3, seed=1))
    assert set(names(few)) < set(names(limit_per_class(images, 5, seed=0)))
    assert names(limit_per_class(images, 10, seed=0)) == names(images)


def test_a_class_has_the_same_images_in_every_window(make_images: Make) -> None:
    images = make_images(60, 6)
    left = images.restrict(LabelSpace(["c0", "c1", "c2", "c3"]))
    right = images.restrict(LabelSpace(["c5", "c3", "c2"]))
    for draw in (
        lambda part: limit_per_class(part, 4, seed=2),
        lambda part: split_validation(part, per_class=4, fraction=None, seed=2)[1],
    ):
        shared = [
            [name for name in names(draw(part)) if name.startswith(("c2", "c3"))] for part in (left, right)
        ]
        assert shared[0] == shared[1]
        assert len(shared[0]) == 8


def test_classes_draw_independently(make_images: Make) -> None:
    """Classes of equal size must not all give the images of the same ranks."""
    few = limit_per_class(make_images(60, 6), 4, seed=0)
    ranks = {
        tuple(int(name[-8:-4]) // 6 for name in names(few) if name.startswith(f"c{c}")) for c in range(6)
    }
    assert len(ranks) > 1


def test_limit_errors(make_images: Make) -> None:
    with refused("too-few-images"):
        limit_per_class(make_images(38, 4), 10, seed=0)
    with refused("limit-out-of-range"):
        limit_per_class(make_images(), 0, seed=0)


@pytest.mark.parametrize("take", ["random", "last"])
@pytest.mark.parametrize(
    ("per_class", "fraction", "held_out"), [(3, None, 3), (None, 0.2, 2), (None, 0.01, 1)]
)
def test_validation_is_disjoint_and_stratified(
    make_images: Make, take: str, per_class: int | None, fraction: float | None, held_out: int
) -> None:
    images = make_images(40, 4)
    train, validation = split_validation(images, per_class=per_class, fraction=fraction, take=take)  # type: ignore[arg-type]
    assert validation.class_counts().tolist() == [held_out] * 4
    assert train.class_counts().tolist() == [10 - held_out] * 4
    assert sorted(names(train) + names(validation)) == sorted(names(images))
    for part in (train, validation):
        positions = [names(images).index(name) for name in names(part)]
        assert positions == sorted(positions)
        assert part.images.equal(images.images[positions])


def test_validation_takes_the_last_of_each_class(make_images: Make) -> None:
    images = make_images(40, 4)
    _, validation = split_validation(images, per_class=2, fraction=None, take="last")
    assert validation.images.equal(images.images[-8:])


def test_random_validation_depends_on_the_seed(make_images: Make) -> None:
    images = make_images(40, 4)
    draws = [names(split_validation(images, per_class=3, fraction=None, seed=seed)[1]) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"per_class": 10}, "no-training-images"),
        ({"per_class": 1, "fraction": 0.1}, "per-class-or-fraction"),
        ({}, "per-class-or-fraction"),
        ({"per_class": 0}, "validation-out-of-range"),
        ({"fraction": 1.0}, "fraction-out-of-range"),
        ({"fraction": 0.97}, "no-training-images"),
        ({"per_class": 1, "take": "first"}, "unknown-validation-choice"),
    ],
)
def test_validation_errors(make_images: Make, arguments: dict, code: str) -> None:
    with refused(code):
        split_validation(make_images(40, 4), **arguments)


def test_a_set_on_its_own_order(make_images: Make) -> None:
    """Labels need not be sorted or interleaved."""
    images = make_images(40, 4).select(torch.randperm(40, generator=torch.Generator().manual_seed(1)))
    train, validation = split_validation(images, per_class=1, fraction=None, take="last")
    for column in range(4):
        last = torch.nonzero(images.labels == column).max()
        assert validation.images[validation.labels == column].equal(images.images[last][None])
    assert len(train) == 36


def test_evened_classes_have_as_many_images_as_the_fewest(make_images: Make) -> None:
    images = make_images(30, 3)
    labels = images.labels
    rows = torch.cat([torch.nonzero(labels == 2).flatten(), torch.nonzero(labels == 0).flatten()[:3]])
    few = images.select(rows)
    assert few.class_counts().tolist() == [3, 0, 10]
    even = evened(few, seed=0)
    assert even.class_counts().tolist() == [3, 0, 3]
    assert even.fingerprint() == evened(few, seed=0).fingerprint()
    assert even.fingerprint() != evened(few, seed=1).fingerprint()
    # The exemplars that a memory of as many would choose at random.
    exemplars = choose_exemplars(few, ["c0", "c2"], 3, selection="random")
    assert names(even) == names(few.select(torch.cat(list(exemplars.values()))))
