"""Images without labels, of a bare folder or zip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from gkd.core.batch import NO_LABEL
from gkd.data import ImageSet, fingerprint, load_unlabelled
from tests.refusals import refused

Make = Callable[..., ImageSet]
Encoded = Callable[..., bytes]
Write = Callable[..., Path]


def test_images_lie_at_any_depth(
    encoded: Encoded, write_tree: Write, write_zip: Write, make_images: Make
) -> None:
    """A folder and a zip of it, with folders around all or without, are the same; what is no image is passed over."""
    files = {
        "0.png": encoded(0),
        "a/1.png": encoded(1, size=(9, 12)),
        "a/b/c/2.jpg": encoded(2, mode="L", kind="jpeg"),
    }
    folder = write_tree({**files, "notes.txt": b"none", ".hidden/3.png": encoded(3), "empty/": b""})
    archive = write_zip({f"around/it/{path}": content for path, content in files.items()})
    images, zipped = (load_unlabelled(root, make_images()) for root in (folder, archive))
    assert images.image_shape == (3, 8, 8)
    assert images.files == ("0.png", "a/1.png", "a/b/c/2.jpg")
    assert images.labels.tolist() == [NO_LABEL] * 3
    assert images.class_counts().tolist() == [0]
    assert images.fingerprint() == zipped.fingerprint()
    assert fingerprint(folder, "unlabelled") == fingerprint(archive, "unlabelled")
    (folder / "0.png").write_bytes(encoded(5))
    assert fingerprint(folder, "unlabelled") != fingerprint(archive, "unlabelled")
    assert not load_unlabelled(folder, make_images()).images[0].equal(images.images[0])


def test_they_take_the_form_of_labelled_images(
    encoded: Encoded, write_tree: Write, make_images: Make
) -> None:
    root = write_tree({"0.png": encoded(0, size=(20, 30)), "1.png": encoded(1, size=(8, 8))})
    like = make_images(6, channels=1)
    assert load_unlabelled(root, like).image_shape == (1, 8, 8)
    seen = replace(like, teacher_images=torch.zeros(6, 3, 16, 16, dtype=torch.uint8))
    images = load_unlabelled(root, seen)
    assert images.image_shape == (1, 8, 8)
    assert images.as_teacher_sees.image_shape == (3, 16, 16)
    assert images.as_teacher_sees.labels.tolist() == [NO_LABEL] * 2
    cubic = load_unlabelled(root, seen, teacher_interpolation="bicubic")
    assert torch.equal(cubic.images, images.images)
    assert not torch.equal(cubic.as_teacher_sees.images, images.as_teacher_sees.images)
    named = replace(like, views={"large": torch.zeros(6, 3, 16, 16, dtype=torch.uint8)})
    images = load_unlabelled(root, named)
    assert images.as_teacher_sees.image_shape == (1, 8, 8)
    assert images.seen_by("large").as_teacher_sees.images.equal(load_unlabelled(root, seen).teacher_images)


def test_what_is_no_set_of_images_is_refused(
    encoded: Encoded, write_tree: Write, make_images: Make, tmp_path: Path
) -> None:
    with refused("data-root-missing"):
        load_unlabelled(tmp_path / "nowhere", make_images())
    root = write_tree({"a/notes.txt": b"none"})
    with refused("no-images"):
        load_unlabelled(root, make_images())
    oblong = replace(make_images(4), images=torch.zeros(4, 3, 8, 12, dtype=torch.uint8))
    (root / "a" / "0.png").write_bytes(encoded(0))
    with refused("mixed-image-shapes"):
        load_unlabelled(root, oblong)
    of_teacher = replace(make_images(4), teacher_images=torch.zeros(4, 3, 8, 12, dtype=torch.uint8))
    with refused("mixed-image-shapes"):
        load_unlabelled(root, of_teacher)
    (root / "a" / "1.png").write_bytes(b"no image")
    with refused("image-unreadable"):
        load_unlabelled(root, make_images())
