"""ImageSet: selection and relabelling by name, counts, fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from gkd.core.labels import LabelSpace
from gkd.data import ImageSet, gather
from tests.refusals import refused

Make = Callable[..., ImageSet]


def test_shape_and_counts(make_images: Make) -> None:
    images = make_images(10, 4, size=6, channels=1)
    assert len(images) == 10
    assert images.channels == 1
    assert images.size == (6, 6)
    assert images.class_counts().tolist() == [3, 3, 2, 2]


def test_wrong_tensors_are_refused(make_images: Make) -> None:
    images = make_images()
    with refused("not-pixels"):
        replace(images, images=images.images.float())
    with refused("not-labels"):
        replace(images, labels=images.labels[:-1])
    with refused("other-count"):
        replace(images, files=("a",))


def test_select_keeps_order_and_files(make_images: Make) -> None:
    images = make_images()
    chosen = images.select(torch.tensor([7, 2]))
    assert chosen.images.equal(images.images[[7, 2]])
    assert chosen.labels.tolist() == [3, 2]
    assert images.files is not None
    assert chosen.files == (images.files[7], images.files[2])
    assert chosen.space == images.space


def test_restrict_relabels_by_name(make_images: Make) -> None:
    images = make_images(8, 4)  # labels 0 1 2 3 0 1 2 3
    part = images.restrict(LabelSpace(["c3", "c1"]))
    assert part.space.names == ("c3", "c1")
    assert part.labels.tolist() == [1, 0, 1, 0]
    assert part.images.equal(images.images[[1, 3, 5, 7]])
    back = part.restrict(LabelSpace(["c1"]))
    assert back.images.equal(images.images[[1, 5]])


def test_restrict_errors(make_images: Make) -> None:
    images = make_images()
    with refused("unknown-class"):
        images.restrict(LabelSpace(["c0", "c33"]))
    without = images.select(torch.nonzero(images.labels != 2).flatten())
    with refused("class-without-images"):
        without.restrict(LabelSpace(["c0", "c2"]))


def test_fingerprint_is_of_the_content(make_images: Make) -> None:
    images = make_images()
    assert images.fingerprint() == make_images().fingerprint()
    assert images.fingerprint() == replace(images, name="other", files=None).fingerprint()
    assert images.fingerprint() == images.to("cpu").fingerprint()
    pixels = images.images.clone()
    pixels[3, 0, 1, 1] ^= 1
    others = [
        replace(images, images=pixels),
        replace(images, labels=images.labels.flip(0)),
        replace(images, space=LabelSpace(["c0", "c1", "c2", "d"])),
        replace(images, images=images.images.reshape(40, 3, 4, 16)),
        images.select(torch.arange(39)),
        images.select(torch.arange(40).flip(0)),
    ]
    assert len({images.fingerprint(), *(other.fingerprint() for other in others)}) == 7


def test_fingerprint_does_not_depend_on_the_layout(make_images: Make) -> None:
    images = make_images()
    laid_out = replace(images, images=images.images.contiguous(memory_format=torch.channels_last))
    assert laid_out.fingerprint() == images.fingerprint()


def test_gather_takes_some_classes_out_of_several_sets(make_images: Make) -> None:
    one, other = make_images(8, 4), replace(make_images(6, 3), space=LabelSpace(["zebra", "b", "c"]))
    one = replace(one, space=LabelSpace(["a", "b", "c", "d"]))
    found = gather([one, other], LabelSpace(["c", "zebra", "a"]), name="both")
    assert found.name == "both"
    assert found.labels.tolist() == [
        2,
        0,
        2,
        0,
        1,
        0,
        1,
        0,
    ]  # those of the first set in its order, then the others
    assert torch.equal(found.images, torch.cat([one.images[[0, 2, 4, 6]], other.images[[0, 2, 3, 5]]]))
    with refused("class-without-images"):
        gather([one, other], LabelSpace(["a", "owl"]))


def test_gather_refuses_images_that_do_not_go_together(make_images: Make) -> None:
    with refused("mixed-image-shapes"):
        gather([make_images(4, 2, size=6), make_images(4, 2, size=8)], make_images(4, 2).space)
