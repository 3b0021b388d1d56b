"""Listings, decoded: size and channels of a whole set, the cache."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gkd.data import load_images
from tests.refusals import refused

Files = dict[str, bytes]
Write = Callable[[Files], Path]
MakeFiles = Callable[..., Files]


def load(root: Path, split: str = "train", **settings: object):  # type: ignore[no-untyped-def]
    return load_images("folder", split, root=root, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_images_stay_grey(make_files: MakeFiles, write_zip: Write, mode: str) -> None:
    files = make_files(train=["a"], test=["a"], mode=mode)
    images = load(write_zip(files))
    assert images.channels == 1
    expected = np.asarray(Image.open(io.BytesIO(files["train/a/00.png"])).convert("L"))
    assert images.images[0, 0].numpy().tobytes() == expected.tobytes()
    colour = load(write_zip(files), channels=3)
    assert colour.images.equal(images.images.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("odd", ["train/a/00.png", "train/a/02.png", "test/a/02.png"])
def test_grey_among_colour_is_refused_unless_channels_says_what_to_do(
    make_files: MakeFiles, encoded: Callable[..., bytes], write_zip: Write, odd: str
) -> None:
    colour = make_files(train=["a"], test=["a"])
    root = write_zip(colour | {odd: encoded(99, mode="L")})
    with refused("mixed-channels"):
        load(root)
    assert load(root, channels=3).channels == 3
    assert load(root, channels=1).channels == 1


def test_images_need_not_be_square(make_files: MakeFiles, write_zip: Write) -> None:
    assert load(write_zip(make_files(train=["a"], test=["a"], size=(6, 9)))).size == (6, 9)


def test_many_files_come_in_order(make_files: MakeFiles, write_zip: Write) -> None:
    """More files than one thread decodes at a time."""
    files = make_files(test=["a"], mode="L")
    for number in range(600):
        pixels = np.full((8, 8), number % 251, dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        files[f"train/a/{number:03}.png"] = buffer.getvalue()
    images = load(write_zip(files))
    assert images.images[:, 0, 0, 0].tolist() == [number % 251 for number in range(600)]


def test_images_of_one_pixel(make_files: MakeFiles, encoded: Callable[..., bytes], write_zip: Write) -> None:
    assert load(write_zip(make_files(train=["a"], test=["a"], size=(1, 1)))).size == (1, 1)
    files = make_files(train=["a"], test=["a"]) | {"test/a/01.png": encoded(1, size=(1, 1))}
    with refused("mixed-image-sizes"):
        load(write_zip(files))
    assert load(write_zip(files), image_size=8).size == (8, 8)


def test_several_sizes(two_classes: Files, encoded: Callable[..., bytes], write_zip: Write) -> None:
    files = two_classes | {"train/cat/01.png": encoded(1, size=(8, 9))}
    with refused("mixed-image-sizes"):
        load(write_zip(files))


def test_bad_settings(two_classes: Files, write_zip: Write) -> None:
    root = write_zip(two_classes)
    with refused("channels-out-of-range"):
        load(root, channels=4)
    with refused("image-size-out-of-range"):
        load(root, image_size=0)


def test_a_second_start_decodes_nothing(
    two_classes: Files, write_tree: Write, write_zip: Write, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    for write in (write_tree, write_zip):
        root = write(two_classes)
        first = load(root)
        with monkeypatch.context() as patch:
            patch.setattr("gkd.data.read.listing.decode", None)
            second, test = load(root), load(root, "test")
        assert second.images.equal(first.images)
        assert second.fingerprint() == first.fingerprint()
        assert (second.files, second.space, second.name) == (first.files, first.space, first.name)
        assert len(test) == 6
    assert not list(cache.glob(".*"))


def test_changed_files_and_settings_are_decoded_anew(
    two_classes: Files, encoded: Callable[..., bytes], write_tree: Write, write_zip: Write
) -> None:
    changed = two_classes | {"train/ant/00.png": encoded(77)}
    for write in (write_tree, write_zip):
        first = load(write(two_classes))
        assert load(write(two_classes), channels=1).channels == 1
        assert load(write(two_classes), image_size=4).size == (4, 4)
        second = load(write(changed))
        assert second.images[1:].equal(first.images[1:])
        assert not second.images[0].equal(first.images[0])


@pytest.mark.parametrize("damage", ["cut", "empty", "pixel", "names"])
def test_a_damaged_cache_is_made_again(
    two_classes: Files, write_zip: Write, cache: Path, damage: str
) -> None:
    root = write_zip(two_classes)
    first = load(root)
    files = sorted(cache.glob("*.safetensors"))
    assert len(files) == 2
    for path in files:
        content = bytearray(path.read_bytes())
        if damage == "cut":
            content = content[:-100]
        elif damage == "empty":
            content = bytearray()
        elif damage == "pixel":
            content[-1] ^= 1
        else:
            content = content.replace(b"ant", b"ape")
        path.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged; the images are decoded again"):
        again = load(root)
    assert again.fingerprint() == first.fingerprint()
    assert again.space == first.space
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(root).images.equal(first.images)


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    two_classes: Files, write_zip: Write, cache: Path
) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot be cached in .*; set GKD_CACHE"):
        assert len(load(write_zip(two_classes))) == 6


def test_the_set_outlives_its_zip_and_its_cache(two_classes: Files, write_zip: Write, cache: Path) -> None:
    root = write_zip(two_classes)
    load(root)
    images = load(root)
    before = images.images.clone()
    root.unlink()
    for path in cache.iterdir():
        path.unlink()
    assert images.images.equal(before)
    assert images.select(torch.tensor([1])).images.equal(before[1:2])


def test_every_damaged_file_is_named(two_classes: Files, write_tree: Write) -> None:
    bad = ["test/ant/02.png", "train/ant/00.png", "train/cat/01.png"]
    root = write_tree(two_classes | dict.fromkeys(bad, b"no image"))
    with refused("image-unreadable") as raised:
        load_images("folder", "train", root=root)
    lines = str(raised.value).splitlines()[1:]
    assert [line.split("'")[1] for line in lines] == [
        "train/ant/00.png",
        "train/cat/01.png",
        "test/ant/02.png",
    ]
    root = write_tree(dict.fromkeys(two_classes, b"no image"))
    with refused("image-unreadable"):
        load_images("folder", "train", root=root)


def test_a_message_names_twenty_damaged_files(make_files: Callable[..., Files], write_tree: Write) -> None:
    files = make_files(train=["a", "b", "c", "d"], test=["a", "b", "c", "d"])
    root = write_tree(
        files
        | dict.fromkeys((path for path in files if "/a/" not in path), b"no image")
        | {"train/a/01.png": b""}
    )
    with refused("image-unreadable"):
        load_images("folder", "train", root=root)
    root = write_tree(dict.fromkeys(files, b"no image"))
    with refused("image-unreadable"):
        load_images("folder", "train", root=root)
