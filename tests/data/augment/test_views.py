"""What student and teacher see of one sample: the same part of it, at other sizes, clean, or each its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from gkd.data import Batches, ImageSet, Look
from tests.refusals import refused

Make = Callable[..., ImageSet]
PLAIN = Look((0.0,) * 3, (1.0,) * 3)


def seen(
    images: ImageSet, student: Look, teacher: Look | None, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """What both sides see of all samples in epoch 2, in the order of the data."""
    batches = Batches(images, student, teacher=teacher, batch_size=8, seed=4, **options)  # type: ignore[arg-type]
    (batch,) = batches.of([torch.arange(len(images))], epoch=2)
    assert batch.images is batch.teacher_images or batch.view is not None
    return batch.images, batch.teacher_images


def doubled(images: ImageSet) -> ImageSet:
    """The teacher's images are the student's, every pixel twice as wide and high."""
    return replace(images, teacher_images=images.images.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("views", [None, 3])
def test_a_larger_view_is_flipped_alike_and_cropped_near_by(make_images: Make, views: int | None) -> None:
    look = replace(PLAIN, augment="flip")
    small, large = seen(doubled(make_images(40, size=16)), look, look, views=views)
    assert large.equal(small.repeat_interleave(2, 2).repeat_interleave(2, 3))
    look = replace(PLAIN, augment="crop")
    small, large = seen(doubled(make_images(40, size=16)), look, look, views=views)
    # Both borders are an eighth; the larger one has more positions, so a crop may lie one large pixel off.
    black = [(side.sum(1) == 0).all(2).sum(1) - (side.sum(1) == 0).all(1).sum(1) for side in (small, large)]
    assert int((black[1] - 2 * black[0]).abs().max()) <= 2


def test_a_clean_view_beside_a_changed_one(make_images: Make) -> None:
    images = make_images(40, size=16)
    changed, clean = seen(images, replace(PLAIN, augment="crop-flip+cutout"), PLAIN)
    assert clean.equal(images.images / 255)
    assert not changed.equal(clean)


@pytest.mark.parametrize("views", [None, 3])
def test_own_draws_differ_from_the_students(make_images: Make, views: int | None) -> None:
    images, look = make_images(40, size=16), replace(PLAIN, augment="crop-flip")
    alone, _ = seen(images, look, None, views=views)
    student, teacher = seen(images, look, replace(look, own_draws=True), views=views)
    assert student.equal(alone)
    assert not teacher.equal(student)
    assert (teacher == student).flatten(1).all(1).sum() < 10  # some draw the same by chance


def test_the_teachers_pixels_follow_their_samples(make_images: Make) -> None:
    images = doubled(make_images(40))
    index = torch.tensor([7, 3, 31])
    chosen = images.select(index)
    assert chosen.as_teacher_sees.images.equal(images.teacher_images[index])
    restricted = images.restrict(images.space.select(["c2"]))
    assert restricted.as_teacher_sees.image_shape == (3, 16, 16)
    assert len(restricted.teacher_images) == len(restricted)
    assert images.fingerprint() != replace(images, teacher_images=None).fingerprint()
    assert images.to("cpu").fingerprint() == images.fingerprint()
    with refused("other-count"):
        replace(images, teacher_images=images.teacher_images[1:])


def test_the_teachers_statistics_fit_its_own_channels(make_images: Make) -> None:
    images = make_images(40)
    grey = replace(images, teacher_images=images.images[:, :1])
    with refused("other-channels"):
        seen(grey, PLAIN, PLAIN)
    _, teacher = seen(grey, PLAIN, Look((0.5,), (0.5,)))
    assert teacher.shape == (40, 1, 8, 8)
