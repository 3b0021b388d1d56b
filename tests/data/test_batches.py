"""Batches: an epoch as a pure function, balanced batches, evaluation order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gkd.core.batch import Batch
from gkd.data import Batches, EpisodePlan, ImageSet, Look, augmentation, normalise, ordered
from tests.refusals import refused

Make = Callable[..., ImageSet]
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def batches_of(images: ImageSet, **arguments: object) -> Batches:
    """Batches of 8; ``look`` and ``teacher`` give parts of what the sides see."""
    seen = {"mean": MEAN, "std": STD, "augment": "crop-flip", **arguments.pop("look", {})}  # type: ignore[dict-item]
    theirs = arguments.pop("teacher", None)
    settings = {"batch_size": 8, "seed": 1, **arguments}
    teacher = None if theirs is None else Look(**{**seen, **theirs})  # type: ignore[dict-item]
    return Batches(images, Look(**seen), teacher=teacher, **settings)  # type: ignore[arg-type]


def joined(batches: list[Batch]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.cat([getattr(b, part) for b in batches]) for part in ("index", "labels", "images"))


def test_an_epoch_visits_each_sample_once(make_images: Make) -> None:
    images = make_images(40)
    batches = batches_of(images)
    epoch = list(batches.epoch(0))
    assert len(epoch) == len(batches) == 5
    index, labels, pixels = joined(epoch)
    assert index.sort().values.equal(torch.arange(40))
    assert labels.equal(images.labels[index])
    augmented = augmentation("crop-flip")(images.images[index], index, seed=1, stage=0, epoch=0)
    assert pixels.equal(normalise(augmented, MEAN, STD))
    assert pixels.dtype == torch.float32
    assert not joined(list(batches.epoch(1)))[0].equal(index)


def test_an_epoch_is_pure(make_images: Make) -> None:
    """Not the global seed, the batches taken before, the batch size or the start change a sample."""
    images = make_images(40)
    torch.manual_seed(0)
    first = joined(list(batches_of(images).epoch(3)))
    torch.manual_seed(7)
    batches = batches_of(images, batch_size=5)
    list(batches.epoch(0))
    next(iter(batches.epoch(3)))
    for other in (joined(list(batches.epoch(3))), joined(list(batches_of(images).epoch(3)))):
        assert all(a.equal(b) for a, b in zip(first, other, strict=True))
    resumed = joined(list(batches_of(images).epoch(3, start=2)))
    assert all(a[16:].equal(b) for a, b in zip(first, resumed, strict=True))
    assert list(batches.epoch(3, start=len(batches))) == []


def test_seed_and_stage_change_the_order(make_images: Make) -> None:
    images = make_images(40)
    orders = [
        batches_of(images, **settings).order(0).tolist() for settings in ({}, {"seed": 2}, {"stage": 1})
    ]
    assert len({tuple(order) for order in orders}) == 3


def test_rows_of_a_batch_can_be_made_alone(make_images: Make) -> None:
    """A rank that makes its share of a batch gets the bits of the whole batch."""
    batches = batches_of(make_images(40))
    whole = next(batches.epoch(2))
    part = next(batches.of([batches.order(2)[4:8]], epoch=2))
    assert part.images.equal(whole.images[4:8])
    assert part.labels.equal(whole.labels[4:8])
    other = next(batches.of([part.index], epoch=3))
    assert not other.images.equal(part.images)


def test_kept_views_come_in_turn_and_are_the_same_for_every_seed_and_stage(make_images: Make) -> None:
    images, index = make_images(40), torch.arange(8)
    batches = batches_of(images, views=3)
    shown = [next(batches.of([index], epoch=epoch)).images for epoch in range(6)]
    assert all(a.equal(b) for a, b in zip(shown[:3], shown[3:], strict=True))
    assert not shown[0].equal(shown[1])
    later = batches_of(images, views=3, seed=2, stage=1, first_view=1)
    assert later.view_of(0) == 1
    assert next(later.of([index], epoch=0)).images.equal(shown[1])
    assert not later.order(0).equal(batches.order(0))


@pytest.mark.parametrize(
    ("num", "drop_last", "sizes"),
    [(20, True, [8, 8]), (20, False, [8, 8, 4]), (16, True, [8, 8]), (5, True, [5]), (5, False, [5])],
)
def test_the_last_batch(make_images: Make, num: int, drop_last: bool, sizes: list[int]) -> None:
    batches = batches_of(make_images(num), drop_last=drop_last)
    assert [len(batch.labels) for batch in batches.epoch(0)] == sizes
    assert len(batches) == len(sizes)


def test_a_batch_larger_than_any_number_of_torch_is_one_of_all(make_images: Make) -> None:
    batches = batches_of(make_images(20), batch_size=10**30)
    assert [len(batch.labels) for batch in batches.epoch(0)] == [20]


def test_the_view_is_the_same_pixels_under_the_teachers_statistics(make_images: Make) -> None:
    images = make_images(40)
    assert next(batches_of(images).epoch(0)).view is None
    assert next(batches_of(images, teacher={}).epoch(0)).view is None
    plain = next(batches_of(images).epoch(0))
    for theirs in ({"mean": (0, 0, 0)}, {"mean": (0, 0, 0), "std": (1, 2, 3)}):
        batch = next(batches_of(images, teacher=theirs).epoch(0))
        assert batch.images.equal(plain.images)
        assert batch.view is not None
        teacher_std = torch.tensor(theirs.get("std", STD)).view(3, 1, 1)
        pixels = plain.images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
        torch.testing.assert_close(batch.view * teacher_std, pixels, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("classes", "per_class"), [(4, 2), (7, 4), (10, 2), (9, 1)])
def test_balanced_batches(make_images: Make, classes: int, per_class: int) -> None:
    images = make_images(90, classes)
    batches = batches_of(images, balanced=per_class)
    assert len(batches) == 11
    epoch = list(batches.epoch(2))
    assert len(epoch) == 11
    seen = torch.zeros(classes, dtype=torch.int64)
    for batch in epoch:
        counts = torch.bincount(batch.labels, minlength=classes)
        assert sorted(counts[counts > 0].tolist()) == [per_class] * (8 // per_class)
        assert len(batch.index.unique()) == 8
        assert batch.labels.equal(images.labels[batch.index])
        seen += counts > 0
    assert seen.min() >= 1
    again = [batch.index for batch in batches_of(images, balanced=per_class).epoch(2, start=3)]
    assert all(a.equal(b.index) for a, b in zip(again, epoch[3:], strict=True))
    assert not batches.order(1).equal(batches.order(2))


def test_a_balanced_class_uses_all_its_images_before_one_again(make_images: Make) -> None:
    images = make_images(80, 4)
    order = batches_of(images, balanced=2).order(0)  # every class in every batch: 10 batches, 20 of a class
    assert order.sort().values.equal(torch.arange(80))


def test_balanced_passes_over_classes_without_images(make_images: Make) -> None:
    images = make_images(40, 4)
    images = images.select(torch.nonzero(images.labels != 1).flatten())
    batch = next(batches_of(images, batch_size=6, balanced=2).epoch(0))
    assert sorted(set(batch.labels.tolist())) == [0, 2, 3]


PLAN = EpisodePlan(ways=3, shots=2, queries=4)


@pytest.mark.parametrize("per_epoch", [None, 5])
def test_episodes(make_images: Make, per_epoch: int | None) -> None:
    """N classes of K + Q images a batch; no support image is a query, whatever the batch size."""
    images = make_images(80, 5)
    batches = batches_of(images, episodes=PLAN.model_copy(update={"per_epoch": per_epoch}), batch_size=7)
    epoch = list(batches.epoch(2))
    assert len(epoch) == len(batches) == (per_epoch or 4)
    for batch in epoch:
        assert batch.way is not None
        assert batch.support is not None
        assert len(batch.index.unique()) == len(batch.images) == 18
        assert not set(batch.index[batch.support].tolist()) & set(batch.index[~batch.support].tolist())
        assert batch.labels.equal(images.labels[batch.index])  # columns of the base classes
        columns = batch.labels.view(3, 6)
        assert torch.equal(columns, columns[:, :1].expand(3, 6))
        assert len(columns[:, 0].unique()) == 3
        assert torch.equal(batch.way, torch.arange(3).repeat_interleave(6))
        assert torch.bincount(batch.way[batch.support]).tolist() == [2, 2, 2]
    assert len({tuple(batch.labels.unique().tolist()) for batch in epoch}) > 1
    augmented = augmentation("crop-flip")(
        images.images[epoch[0].index], epoch[0].index, seed=1, stage=0, epoch=2
    )
    assert epoch[0].images.equal(normalise(augmented, MEAN, STD))


def test_episodes_are_pure(make_images: Make) -> None:
    images = make_images(80, 5)
    torch.manual_seed(0)
    whole = list(batches_of(images, episodes=PLAN).epoch(3))
    torch.manual_seed(7)
    batches = batches_of(images, episodes=PLAN, batch_size=32)
    next(iter(batches.epoch(0)))
    again = list(batches.epoch(3, start=1))
    assert len(again) == 3
    for one, other in zip(whole[1:], again, strict=True):
        for part in ("images", "labels", "index", "way", "support"):
            assert torch.equal(getattr(one, part), getattr(other, part))
    assert list(batches.epoch(3, start=4)) == []
    orders = [
        batches.order(2),
        *(batches_of(images, episodes=PLAN, **{k: 5}).order(3) for k in ("seed", "stage")),
    ]
    assert not any(torch.equal(batches.order(3), order) for order in orders)


def test_episodes_show_the_kept_views(make_images: Make) -> None:
    images = make_images(80, 5)
    episodes, shuffled = (batches_of(images, views=2, **kind) for kind in ({"episodes": PLAN}, {"stage": 1}))
    batch = next(episodes.epoch(3))
    assert batch.images.equal(next(shuffled.of([batch.index], epoch=1)).images)
    assert next(shuffled.epoch(0)).way is None


def test_episodes_pass_over_classes_without_images(make_images: Make) -> None:
    images = make_images(80, 5)
    images = images.select(torch.nonzero(images.labels != 1).flatten())
    seen = torch.cat([batch.labels for batch in batches_of(images, episodes=PLAN).epoch(0)])
    assert sorted(set(seen.tolist())) == [0, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"look": {"augment": "crop-flop"}}, "unknown-augmentation"),
        ({"batch_size": 0}, "batch-size-out-of-range"),
        ({"look": {"mean": (0.5,)}}, "other-channels"),
        ({"teacher": {"std": (1.0, 1.0)}}, "other-channels"),
        ({"look": {"std": (1.0, 0.0, 1.0)}}, "std-out-of-range"),
        ({"balanced": 3}, "batch-not-divisible"),
        ({"balanced": 1}, "too-few-classes"),
        ({"batch_size": 24, "balanced": 12}, "too-few-images"),
        ({"episodes": EpisodePlan()}, "too-few-classes"),
        (
            {"episodes": EpisodePlan(ways=2, shots=1, queries=10)},
            "too-few-images",
        ),
        ({"episodes": PLAN, "balanced": 2}, "balanced-episodes-not-together"),
    ],
)
def test_errors(make_images: Make, settings: dict, code: str) -> None:
    with refused(code):
        batches_of(make_images(40), **settings)


def test_an_empty_set_is_refused(make_images: Make) -> None:
    with refused("no-images"):
        batches_of(make_images(4).select(torch.tensor([], dtype=torch.int64)))


def test_ordered(make_images: Make) -> None:
    images = make_images(20)
    batches = list(ordered(images, Look(MEAN, STD), batch_size=8))
    assert [len(batch.labels) for batch in batches] == [8, 8, 4]
    index, labels, pixels = joined(batches)
    assert index.equal(torch.arange(20))
    assert labels.equal(images.labels)
    assert pixels.equal(normalise(images.images, MEAN, STD))
    assert all(batch.view is None for batch in batches)


def test_channels_last_batches(make_images: Make) -> None:
    images = make_images(40)
    first = next(batches_of(images).epoch(0))
    second = next(batches_of(images, memory_format=torch.channels_last).epoch(0))
    assert second.images.is_contiguous(memory_format=torch.channels_last)
    assert second.images.equal(first.images)
