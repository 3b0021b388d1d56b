"""Well-known data sets as they are published: read as meant from small trees, refused where a list is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gkd.data import LAYOUTS, fingerprint, listing_of, load_images
from gkd.problems.problem import Source
from tests.refusals import refused

Files = dict[str, bytes]
Write = Callable[[Files], Path]
Encoded = Callable[..., bytes]

CUB_CLASSES = ("001.Black_footed_Albatross", "002.Laysan_Albatross")


@pytest.fixture
def trees(encoded: Encoded) -> dict[str, Files]:
    """The smallest whole copy of each data set, by name."""
    seeds = iter(range(1000))

    def image() -> bytes:
        return encoded(next(seeds))

    cub = {f"images/{name}/bird_{n}.jpg": image() for name in CUB_CLASSES for n in range(3)}
    rows = [(number, path) for number, path in enumerate(cub, 1)]
    cub |= {
        "classes.txt": lines(f"{n} {name}" for n, name in enumerate(CUB_CLASSES, 1)),
        "images.txt": lines(f"{n} {path.removeprefix('images/')}" for n, path in rows),
        "image_class_labels.txt": lines(f"{n} {1 if n <= 3 else 2}" for n, _ in rows),
        "train_test_split.txt": lines(f"{n} {int(n % 3 != 0)}" for n, _ in rows),
        "parts/parts.txt": b"1 back\n",
    }
    cinic = {
        f"{split}/{name}/{split}-{n}.png": image()
        for split in ("train", "valid", "test")
        for name in ("cat", "airplane")
        for n in range(2)
    }
    dtd = {f"images/{name}/{name}_{n:04}.jpg": image() for name in ("dotted", "banded") for n in range(3)}
    for fold in (1, 2):
        for place, part in enumerate(("train", "val", "test")):
            chosen = (place + fold - 1) % 3
            dtd[f"labels/{part}{fold}.txt"] = lines(
                f"{name}/{name}_{chosen:04}.jpg" for name in ("banded", "dotted")
            )
    tiny = {
        f"train/{name}/images/{name}_{n}.JPEG": image() for name in ("n02124075", "n01443537") for n in (0, 1)
    }
    tiny |= {f"val/images/val_{n}.JPEG": image() for n in range(3)}
    tiny |= {
        "wnids.txt": b"n02124075\nn01443537\n",
        "words.txt": b"n01443537\tgoldfish\n",
        "train/n02124075/n02124075_boxes.txt": b"n02124075_0.JPEG\t0\t0\t7\t7\n",
        "val/val_annotations.txt": lines(
            f"val_{n}.JPEG\t{name}\t0\t0\t7\t7"
            for n, name in enumerate(["n02124075", "n01443537", "n02124075"])
        ),
        "test/images/test_0.JPEG": image(),
    }
    mini = {}
    for part, names in (("train", "ba"), ("val", "c"), ("test", "ed")):
        files = [(f"n0{name}0{n}.jpg", f"n0{name}") for name in names for n in range(2)]
        mini[f"{part}.csv"] = lines(["filename,label", *(f"{file},{label}" for file, label in files)])
        mini |= {f"images/{file}": image() for file, _ in files}
    imagenet = {
        f"{folder}/{name}/{folder}_{n}.JPEG": image()
        for folder in ("train", "val")
        for name in ("n02124075", "n01440764")
        for n in (0, 1)
    }
    return {
        "imagenet": imagenet,
        "cub200": cub,
        "cinic10": cinic,
        "cinic10_train_valid": cinic,
        "dtd": dtd,
        "dtd_2": dtd,
        "tiny_imagenet": tiny,
        "mini_imagenet": mini,
    }


def lines(rows) -> bytes:  # type: ignore[no-untyped-def]
    return "".join(f"{row}\n" for row in rows).encode()


def changed(files: Files, path: str, old: str, new: str) -> Files:
    """The files with one text replaced in one of them."""
    content = files[path].decode()
    assert old in content
    return files | {path: content.replace(old, new, 1).encode()}


# What each split holds: file as shown -> class.
EXPECTED = {
    "cub200": {
        "train": [(f"images/{name}/bird_{n}.jpg", name) for name in CUB_CLASSES for n in (0, 1)],
        "test": [(f"images/{name}/bird_2.jpg", name) for name in CUB_CLASSES],
    },
    "cinic10": {
        split: [(f"{folder}/{name}/{folder}-{n}.png", name) for name in ("airplane", "cat") for n in (0, 1)]
        for split, folder in (("train", "train"), ("validation", "valid"), ("test", "test"))
    },
    "cinic10_train_valid": {
        "train": [
            (f"{folder}/{name}/{folder}-{n}.png", name)
            for name in ("airplane", "cat")
            for folder in ("train", "valid")
            for n in (0, 1)
        ],
        "test": [(f"test/{name}/test-{n}.png", name) for name in ("airplane", "cat") for n in (0, 1)],
    },
    "dtd": {
        split: [(f"images/{name}/{name}_{n:04}.jpg", name) for name in ("banded", "dotted")]
        for n, split in enumerate(("train", "validation", "test"))
    },
    "dtd_2": {
        split: [(f"images/{name}/{name}_{n:04}.jpg", name) for name in ("banded", "dotted")]
        for n, split in ((1, "train"), (2, "validation"), (0, "test"))
    },
    "tiny_imagenet": {
        "train": [
            (f"train/{name}/images/{name}_{n}.JPEG", name)
            for name in ("n01443537", "n02124075")
            for n in (0, 1)
        ],
        "test": [
            ("val/images/val_1.JPEG", "n01443537"),
            ("val/images/val_0.JPEG", "n02124075"),
            ("val/images/val_2.JPEG", "n02124075"),
        ],
    },
    "imagenet": {
        split: [
            (f"{folder}/{name}/{folder}_{n}.JPEG", name)
            for name in ("n01440764", "n02124075")
            for n in (0, 1)
        ]
        for split, folder in (("train", "train"), ("test", "val"))
    },
    "mini_imagenet": {
        split: [(f"images/n0{name}0{n}.jpg", f"n0{name}") for name in names for n in (0, 1)]
        for split, names in (("train", "ab"), ("validation", "c"), ("test", "de"))
    },
}


@pytest.mark.parametrize("name", EXPECTED)
def test_files_and_classes_from_a_directory_a_zip_and_one_folder_more(
    name: str, trees: dict[str, Files], write_tree: Write, write_zip: Write
) -> None:
    files = trees[name]
    around = {f"pack/{path}": content for path, content in files.items()} | {"attributes.txt": b"beside"}
    names = set()
    for root in (write_zip(files), write_tree(files), write_zip(around)):
        listing = listing_of(name, root)
        found = {
            split: [
                (listing.shown(path), part.classes[label])
                for path, label in zip(part.files, part.labels, strict=True)
            ]
            for split, part in listing.splits.items()
        }
        assert found == EXPECTED[name]
        names.add(fingerprint(root, name))
    assert len(names) == 1


@pytest.mark.parametrize("name", EXPECTED)
def test_pixels_go_with_their_labels(name: str, trees: dict[str, Files], write_zip: Write) -> None:
    root = write_zip(trees[name])
    for split, rows in EXPECTED[name].items():
        images = load_images(name, split, root=root)  # type: ignore[arg-type]
        assert images.files == tuple(path for path, _ in rows)
        assert [images.space.names[label] for label in images.labels] == [label for _, label in rows]
        assert images.name == name
        single = load_images(  # the same file read as a class folder
            "folder", "train", root=write_zip({"train/x/0.png": trees[name][rows[-1][0]]})
        )
        assert images.images[-1].equal(single.images[0])
        root = write_zip(trees[name])


def test_every_layout_is_tested() -> None:
    assert set(LAYOUTS) - set(EXPECTED) == {
        "folder",
        "step-folders",
        *(f"dtd_{fold}" for fold in range(3, 11)),
    }


def test_a_list_is_part_of_the_fingerprint(trees: dict[str, Files], write_zip: Write) -> None:
    """The same images with other labels or splits are other data, where lists say them."""
    assert fingerprint(write_zip(trees["dtd"]), "dtd") != fingerprint(write_zip(trees["dtd"]), "dtd_2")
    tiny = trees["tiny_imagenet"]
    swapped = changed(tiny, "val/val_annotations.txt", "val_0.JPEG\tn02124075", "val_0.JPEG\tn01443537")
    assert fingerprint(write_zip(tiny), "tiny_imagenet") != fingerprint(write_zip(swapped), "tiny_imagenet")
    moved = changed(trees["cub200"], "train_test_split.txt", "3 0", "3 1") | {}
    moved = changed(moved, "train_test_split.txt", "2 1", "2 0")
    assert fingerprint(write_zip(trees["cub200"]), "cub200") != fingerprint(write_zip(moved), "cub200")


def test_changed_labels_are_not_served_from_the_cache(trees: dict[str, Files], write_zip: Write) -> None:
    """Not even where the files stay in the same order and only a class ends later."""
    tiny, list_of_val = trees["tiny_imagenet"], "val/val_annotations.txt"
    names = {"a": "n01443537", "b": "n02124075"}
    for classes, labels in (("abb", [0, 1, 1]), ("aab", [0, 0, 1])):
        content = lines(f"val_{n}.JPEG\t{names[name]}\t0\t0\t7\t7" for n, name in enumerate(classes))
        images = load_images("tiny_imagenet", "test", root=write_zip(tiny | {list_of_val: content}))
        assert images.labels.tolist() == labels


@pytest.mark.parametrize(
    ("name", "path", "old", "new", "code"),
    [
        ("cub200", "image_class_labels.txt", "2 1", "2 7", "unknown-class"),
        ("cub200", "image_class_labels.txt", "2 1\n", "", "line-missing"),
        ("cub200", "image_class_labels.txt", "2 1", "2 2", "class-and-folder-differ"),
        ("cub200", "image_class_labels.txt", "2 1", "2", "list-line-form"),
        ("cub200", "train_test_split.txt", "2 1", "2 5", "unknown-split"),
        ("cub200", "train_test_split.txt", "2 1\n", "", "line-missing"),
        ("cub200", "images.txt", "bird_1", "bird_9", "image-missing"),
        ("cub200", "images.txt", "bird_1", "bird_0", "image-twice"),
        ("cub200", "images.txt", "2 ", "1 ", "number-twice"),
        ("cub200", "classes.txt", "2 002", "3 003.None\n2 002", "class-without-images"),
        ("dtd", "labels/train1.txt", "banded_0000", "banded_0009", "image-missing"),
        ("dtd", "labels/train1.txt", "banded_0000", "banded_0001", "image-twice"),
        ("dtd", "labels/train1.txt", "banded/banded_0000.jpg\n", "", "image-not-listed"),
        ("tiny_imagenet", "val/val_annotations.txt", "n01443537", "n0", "unknown-class"),
        ("tiny_imagenet", "val/val_annotations.txt", "val_1.JPEG\tn01443537\t0\t0\t7\t7\n", "", "image-not-listed"),
        ("tiny_imagenet", "val/val_annotations.txt", "\tn01443537\t0\t0\t7\t7", "", "list-line-form"),
        ("tiny_imagenet", "wnids.txt", "n02124075\n", "", "unknown-class"),
        ("tiny_imagenet", "wnids.txt", "n02124075", "n02124075\nn9", "class-without-images"),
        ("mini_imagenet", "train.csv", "filename,label", "file,label", "column-missing"),
        ("mini_imagenet", "train.csv", "n0b00.jpg,n0b", "n0b00.jpg,", "value-missing"),
        ("mini_imagenet", "train.csv", "n0b00.jpg", "n0z.jpg", "image-missing"),
        ("mini_imagenet", "train.csv", "n0b00.jpg", "n0a00.jpg", "image-twice"),
        ("mini_imagenet", "test.csv", ",n0e", ",n0a", "class-in-two-splits"),
        ("mini_imagenet", "val.csv", "n0c01.jpg,n0c\n", "", "image-not-listed"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_refused(
    name: str, path: str, old: str, new: str, code: str, trees: dict[str, Files], write_zip: Write
) -> None:
    root = write_zip(changed(trees[name], path, old, new))
    with refused(code) as error:
        load_images(name, "train", root=root)
    assert str(root) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "gone", "code"),
    [
        ("cub200", "classes.txt", "data-file-missing"),
        ("cub200", "images/", "image-missing"),
        ("cinic10", "valid/", "split-folders-missing"),
        ("cinic10", "test/cat/", "class-without-images"),
        ("dtd", "labels/val1.txt", "data-file-missing"),
        ("tiny_imagenet", "wnids.txt", "data-file-missing"),
        ("tiny_imagenet", "val/val_annotations.txt", "data-file-missing"),
        ("tiny_imagenet", "train/n02124075/images/", "class-without-images"),
        ("mini_imagenet", "val.csv", "data-file-missing"),
        ("imagenet", "val/", "split-folders-missing"),
        ("imagenet", "val/n01440764/", "class-in-one-split"),
    ],
)
def test_a_data_set_that_is_not_whole(
    name: str, gone: str, code: str, trees: dict[str, Files], write_zip: Write
) -> None:
    left = {path: content for path, content in trees[name].items() if not path.startswith(gone)}
    with refused(code):
        load_images(name, "train", root=write_zip(left))


def test_a_list_that_is_no_text(trees: dict[str, Files], write_tree: Write) -> None:
    root = write_tree(trees["cub200"] | {"classes.txt": b"\xff\xfe\x00"})
    with refused("data-file-unreadable"):
        listing_of("cub200", root)


def test_where_the_data_are_must_be_said() -> None:
    with refused("needs-data-root"):
        load_images("cub200", "train")


def test_few_shot_data_are_refused_where_classes_are_to_be_learnt(
    trees: dict[str, Files], write_zip: Write
) -> None:
    root = write_zip(trees["mini_imagenet"])
    sets = {split: load_images("mini_imagenet", split, root=root) for split in ("train", "test")}  # type: ignore[arg-type]
    source = Source(sets["train"], sets["train"], sets["test"])
    with refused("other-test-classes"):
        source.restrict(source.space)
