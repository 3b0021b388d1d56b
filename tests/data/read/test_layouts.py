"""Layouts: the same listing from a directory and a zip, in order, and one sentence for each thing wrong."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gkd.data import listing_of, load_images
from tests.refusals import refused

Files = dict[str, bytes]
Write = Callable[[Files], Path]
MakeFiles = Callable[..., Files]


def load(root: Path, split: str = "train", **settings: object):  # type: ignore[no-untyped-def]
    return load_images("folder", split, root=root, **settings)  # type: ignore[arg-type]


def test_classes_files_and_pixels(two_classes: Files, write_tree: Write) -> None:
    images = load(write_tree(two_classes))
    assert images.space.names == ("ant", "cat")
    assert images.name == "animals"
    assert images.files == tuple(f"train/{c}/{n:02}.png" for c in ("ant", "cat") for n in range(3))
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for position, file in enumerate(images.files):
        pixels = np.array(Image.open(io.BytesIO(two_classes[file])))
        assert images.images[position].permute(1, 2, 0).numpy().tobytes() == pixels.tobytes()


@pytest.mark.parametrize("split", ["train", "test"])
def test_zip_and_tree_are_one_set(
    two_classes: Files, write_tree: Write, write_zip: Write, split: str
) -> None:
    tree, packed = load(write_tree(two_classes), split), load(write_zip(two_classes), split)
    assert tree.fingerprint() == packed.fingerprint()
    assert tree.files == packed.files


def test_val_stands_in_for_test(make_files: MakeFiles, write_zip: Write) -> None:
    root = write_zip(make_files(train=["a", "b"], val=["a", "b"]))
    assert load(root, "test").files[0] == "val/a/00.png"
    root = write_zip(make_files(train=["a", "b"], val=["a"], test=["a", "b"]))
    assert load(root, "test").files[0] == "test/a/00.png"


def test_other_files_are_passed_over(two_classes: Files, write_tree: Write, write_zip: Write) -> None:
    more = {
        "README.txt": b"read me",
        "train/list.txt": b"",
        "train/ant/notes.txt": b"",
        "train/ant/.hidden.png": b"",
        ".git/ant/x.png": b"",
        "__MACOSX/train/ant/00.png": b"",
    }
    plain = load(write_zip(two_classes))
    for write in (write_tree, write_zip):
        assert load(write(two_classes | more)).fingerprint() == plain.fingerprint()


def test_photographs_that_are_not_decoded_are_told(two_classes: Files, write_tree: Write) -> None:
    more = {"train/ant/IMG_1.HEIC": b"", "train/ant/IMG_2.heic": b"", "test/cat/x.avif": b""}
    with pytest.warns(UserWarning, match=r"left out.*\(1 \.avif, 2 \.heic\); convert them"):
        images = load(write_tree(two_classes | more))
    assert len(images) == 6


def test_images_by_their_rarer_endings_are_images(two_classes: Files, write_tree: Write) -> None:
    endings = ("apng", "jfif", "JPE", "mpo", "pbm", "pnm")
    more = {f"train/ant/more.{ending}": two_classes["train/ant/00.png"] for ending in endings}
    assert len(load(write_tree(two_classes | more))) == 6 + len(endings)


def test_a_folder_around_the_splits_and_files_deeper_down(
    two_classes: Files, write_tree: Write, write_zip: Write
) -> None:
    plain = load(write_zip(two_classes))
    around = {f"pets/{path}": content for path, content in two_classes.items()}
    for write in (write_tree, write_zip):
        packed = load(write(around))
        assert packed.fingerprint() == plain.fingerprint()
        assert packed.files == plain.files
    deeper = {path.replace("ant/", "ant/images/"): content for path, content in two_classes.items()}
    assert load(write_zip(deeper)).fingerprint() == plain.fingerprint()


def test_few_shot_splits_share_no_class(make_files: MakeFiles, write_zip: Write) -> None:
    root = write_zip(make_files(train=["a", "b"], test=["c", "d", "e"]))
    assert load(root).space.names == ("a", "b")
    assert load(root, "test").space.names == ("c", "d", "e")


def test_a_listing_says_it_all_before_a_pixel_is_decoded(
    two_classes: Files, make_files: MakeFiles, write_tree: Write
) -> None:
    undecodable = {f"pets/{path}": b"" for path in two_classes | make_files(val=["cat"])}
    root = write_tree(undecodable)
    listing = listing_of("folder", root)
    assert listing.label == str(root)
    assert listing.prefix == "pets/"
    assert list(listing.splits) == ["train", "validation", "test"]
    train, validation = listing.splits["train"], listing.splits["validation"]
    assert train.classes == ("ant", "cat")
    assert train.files == tuple(f"pets/train/{c}/{n:02}.png" for c in ("ant", "cat") for n in range(3))
    assert train.labels == (0, 0, 0, 1, 1, 1)
    assert (validation.classes, validation.labels) == (("cat",), (0, 0, 0))
    with refused("unknown-file-based-data-set"):
        listing_of("digits", root)


def test_a_validation_split_can_be_read(make_files: MakeFiles, write_zip: Write) -> None:
    root = write_zip(make_files(train=["a", "b"], val=["c"], test=["d", "e"]))
    assert load(root, "validation").space.names == ("c",)
    with refused("split-missing"):
        load(write_zip(make_files(train=["a"], test=["a"])), "validation")
    with refused("split-missing"):
        load_images("digits", "validation")


def test_a_training_split_alone(make_files: MakeFiles, write_zip: Write) -> None:
    root = write_zip(make_files(train=["a", "b"]))
    assert len(load(root)) == 6
    with refused("split-missing"):
        load(root, "test")


def test_no_split_folder(make_files: MakeFiles, write_tree: Write, write_zip: Write) -> None:
    for write in (write_tree, write_zip):
        with refused("split-folders-missing"):
            load(write({"cats/0.png": b"", "dogs/0.png": b""}))
    with refused("split-missing"):
        load(write_zip(make_files(test=["a"])))
    with refused("split-folders-missing"):
        load(write_zip({}))
    with refused("split-folders-missing"):
        load(write_zip({"0.png": b"", "1.png": b""}))


def test_a_class_without_images(two_classes: Files, write_tree: Write, write_zip: Write) -> None:
    for write in (write_tree, write_zip):
        for files in ({"train/dog/": b""}, {"train/dog/notes.txt": b""}):
            with refused("class-without-images"):
                load(write(two_classes | files))


def test_a_class_in_one_split_only(make_files: MakeFiles, write_zip: Write) -> None:
    for here, there in (("train", "test"), ("test", "train")):
        files = make_files(**{here: ["a", "b"], there: ["a"]})
        with refused("class-in-one-split"):
            load(write_zip(files))


def test_images_that_arrive_in_steps(make_files: MakeFiles, write_tree: Write, write_zip: Write) -> None:
    steps = {
        "10": make_files(train=["ant"], test=["ant"]),
        "2": make_files(train=["dog", "cat"], val=["cat", "dog"]),
    }
    files = {f"{step}/{path}": content for step, inside in steps.items() for path, content in inside.items()}
    for root in (
        write_tree(files),
        write_zip(files),
        write_zip({f"all/{path}": x for path, x in files.items()}),
    ):
        train = load_images("step-folders", "train", root=root)
        assert train.space.names == ("2/cat", "2/dog", "10/ant")
        assert train.class_counts().tolist() == [3, 3, 3]
        assert load_images("step-folders", "test", root=root).space == train.space
        last = files["10/train/ant/02.png"]
        pixels = np.array(Image.open(io.BytesIO(last)))
        assert train.images[-1].permute(1, 2, 0).numpy().tobytes() == pixels.tobytes()
    listing = listing_of("step-folders", root)
    assert listing.prefix == "all/"
    assert listing.splits["test"].files[0] == "all/2/val/cat/00.png"  # the test split of a step without one
    twins = write_zip(
        {f"{step}/{path}": x for step in ("02", "2") for path, x in make_files(train=["ant"]).items()}
    )
    assert listing_of("step-folders", twins).splits["train"].classes == ("02/ant", "2/ant")
    with refused("step-folders-missing"):
        listing_of("step-folders", write_zip(steps["10"]))
    with refused("split-folders-missing"):
        listing_of("step-folders", write_zip(files | {"3/training/fox/00.png": b""}))
    with refused("split-folders-missing"):
        listing_of("step-folders", write_zip(files | {"3/00.png": b""}))
    assert (
        len(listing_of("step-folders", write_zip(files | {"notes/a.txt": b""})).splits["train"].classes) == 3
    )
    with refused("class-without-images"):
        listing_of("step-folders", write_zip(files | {"2/train/fox/": b""}))
