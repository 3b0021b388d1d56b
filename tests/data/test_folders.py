"""Class folders and zips: the same set from both, in order, and one sentence for each thing wrong."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gkd.data import fingerprint, load_images
from gkd.errors import UserError

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


def test_a_training_split_alone(make_files: MakeFiles, write_zip: Write) -> None:
    root = write_zip(make_files(train=["a", "b"]))
    assert len(load(root)) == 6
    with pytest.raises(UserError, match=r"no folder 'test' \(or 'val'\).* only 'train'"):
        load(root, "test")


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_images_stay_grey(make_files: MakeFiles, write_zip: Write, mode: str) -> None:
    files = make_files(train=["a"], test=["a"], mode=mode)
    images = load(write_zip(files))
    assert images.channels == 1
    expected = np.asarray(Image.open(io.BytesIO(files["train/a/00.png"])).convert("L"))
    assert images.images[0, 0].numpy().tobytes() == expected.tobytes()
    colour = load(write_zip(files), channels=3)
    assert colour.images.equal(images.images.expand(-1, 3, -1, -1))


def test_one_colour_image_makes_the_whole_set_colour(
    make_files: MakeFiles, encoded: Callable[..., bytes], write_zip: Write
) -> None:
    grey = make_files(train=["a"], test=["a"], mode="L")
    first = load(write_zip(grey))
    mixed = load(write_zip(grey | {"test/a/02.png": encoded(99)}))
    assert mixed.channels == 3
    assert mixed.images.equal(first.images.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "RGB"])
def test_colour_modes(
    make_files: MakeFiles, write_zip: Write, encoded: Callable[..., bytes], mode: str
) -> None:
    kind = "tiff" if mode == "CMYK" else "png"
    files = {f"{split}/a/0.{kind}": encoded(3, mode=mode, kind=kind) for split in ("train", "test")}
    images = load(write_zip(files))
    expected = np.asarray(Image.open(io.BytesIO(files[f"train/a/0.{kind}"])).convert("RGB"))
    assert images.images[0].permute(1, 2, 0).numpy().tobytes() == expected.tobytes()
    assert load(write_zip(files), channels=1).channels == 1


def test_resize(make_files: MakeFiles, encoded: Callable[..., bytes], write_zip: Write) -> None:
    files = make_files(train=["a"], test=["a"]) | {"train/a/wide.png": encoded(5, size=(6, 20))}
    images = load(write_zip(files), image_size=10)
    assert images.size == (10, 10)
    wide = Image.open(io.BytesIO(files["train/a/wide.png"])).resize((10, 10), Image.Resampling.BILINEAR)
    assert images.images[-1].permute(1, 2, 0).numpy().tobytes() == np.asarray(wide).tobytes()


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


# What is wrong with the data: each is one sentence that says where.


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no file or folder .*nowhere\.zip"):
        load(tmp_path / "nowhere.zip")
    with pytest.raises(UserError, match=r"needs data\.root"):
        load_images("folder", "train")


def test_not_a_zip(two_classes: Files, write_zip: Write) -> None:
    root = write_zip(two_classes)
    whole = root.read_bytes()
    for content in (b"", b"no zip at all", whole[: len(whole) // 2]):
        root.write_bytes(content)
        with pytest.raises(UserError, match=r"animals\.zip is not a readable zip"):
            load(root)


def test_a_damaged_file_inside_a_zip(two_classes: Files, write_zip: Write) -> None:
    root = write_zip(two_classes)
    content = bytearray(root.read_bytes())
    with zipfile.ZipFile(root) as archive:
        info = archive.getinfo("test/cat/01.png")
    content[info.header_offset + 30 + len(info.filename) + 60] ^= 255
    root.write_bytes(content)
    with pytest.raises(UserError, match=r"'test/cat/01\.png' in .*animals\.zip cannot be decoded"):
        load(root)


@pytest.mark.parametrize("content", [b"", b"text, not pixels", "cut"])
def test_a_damaged_image(
    two_classes: Files, write_tree: Write, write_zip: Write, content: bytes | str
) -> None:
    damaged = two_classes["train/cat/01.png"][:90] if content == "cut" else content
    assert isinstance(damaged, bytes)
    for write in (write_tree, write_zip):
        with pytest.raises(UserError, match=r"'train/cat/01\.png' in .*animals.* cannot be decoded"):
            load(write(two_classes | {"train/cat/01.png": damaged}))


def test_sixteen_bits_are_refused(two_classes: Files, write_zip: Write) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(buffer, "png")
    with pytest.raises(UserError, match=r"'train/ant/00\.png'.* mode I;16; only 8 bits"):
        load(write_zip(two_classes | {"train/ant/00.png": buffer.getvalue()}))


def test_no_split_folder(make_files: MakeFiles, write_tree: Write, write_zip: Write) -> None:
    for write in (write_tree, write_zip):
        with pytest.raises(UserError, match=r"no folder 'train', 'test' or 'val'.*found: cats, dogs"):
            load(write({"cats/0.png": b"", "dogs/0.png": b""}))
    with pytest.raises(UserError, match="has no folder 'train' with class folders in it, only 'test'"):
        load(write_zip(make_files(test=["a"])))
    with pytest.raises(UserError, match="found: nothing"):
        load(write_zip({}))
    with pytest.raises(UserError, match="found: 2 files without a folder"):
        load(write_zip({"0.png": b"", "1.png": b""}))


def test_a_class_without_images(two_classes: Files, write_tree: Write, write_zip: Write) -> None:
    for write in (write_tree, write_zip):
        for files in ({"train/dog/": b""}, {"train/dog/notes.txt": b""}):
            with pytest.raises(UserError, match=r"class folder 'dog' of the train split of .* has no image"):
                load(write(two_classes | files))


def test_a_class_in_one_split_only(make_files: MakeFiles, write_zip: Write) -> None:
    for here, there in (("train", "test"), ("test", "train")):
        files = make_files(**{here: ["a", "b"], there: ["a"]})
        with pytest.raises(UserError, match=f"class 'b' .* in the {here} split but not in the {there} split"):
            load(write_zip(files))


def test_several_sizes(two_classes: Files, encoded: Callable[..., bytes], write_zip: Write) -> None:
    files = two_classes | {"train/cat/01.png": encoded(1, size=(8, 9))}
    with pytest.raises(
        UserError, match=r"'train/cat/01\.png' in .* is 8×9 .* where 'train/ant/00\.png' is 8×8"
    ):
        load(write_zip(files))


def test_bad_settings(two_classes: Files, write_zip: Write) -> None:
    root = write_zip(two_classes)
    with pytest.raises(UserError, match="1 or 3 channels, not 4"):
        load(root, channels=4)
    with pytest.raises(UserError, match="image size 0 is below 1"):
        load(root, image_size=0)


# The cache.


def test_a_second_start_decodes_nothing(
    two_classes: Files, write_tree: Write, write_zip: Write, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    for write in (write_tree, write_zip):
        root = write(two_classes)
        first = load(root)
        with monkeypatch.context() as patch:
            patch.setattr("gkd.data.folders._decode", None)
            second, test = load(root), load(root, "test")
        assert second.images.equal(first.images)
        assert second.fingerprint() == first.fingerprint()
        assert (second.files, second.space, second.name) == (first.files, first.space, first.name)
        assert len(test) == 6
    assert not list(cache.glob("*.part"))


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


def test_a_fingerprint_names_the_images_whatever_they_are_packed_in(
    two_classes: Files, encoded: Callable[..., bytes], write_tree: Write, write_zip: Write
) -> None:
    name = fingerprint(write_tree(two_classes))
    assert len(name) == 64
    assert fingerprint(write_zip(two_classes)) == name
    assert (
        fingerprint(write_zip({f"animals/{path}": content for path, content in two_classes.items()})) == name
    )
    assert fingerprint(write_zip(two_classes | {"README.md": b"not an image"})) == name
    for changed in (
        two_classes | {"train/ant/00.png": encoded(77)},
        two_classes | {"test/ant/new.png": encoded(77)},
        {path.replace("ant", "ape"): content for path, content in two_classes.items()},
    ):
        assert fingerprint(write_zip(changed)) != name


def test_a_folder_is_read_once_for_its_fingerprint(
    two_classes: Files, write_tree: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_tree(two_classes)
    name = fingerprint(root)
    with monkeypatch.context() as patch:
        patch.setattr("gkd.data.folders._FolderSource.read", None)
        assert fingerprint(root) == name
    path = root / "train" / "ant" / "00.png"
    path.write_bytes(path.read_bytes() + b".")
    assert fingerprint(root) != name


@pytest.mark.parametrize("content", ["", "garbage", f"{'ab' * 32} 0123456789abcdef\n"])
def test_a_damaged_fingerprint_in_the_cache_is_made_again(
    two_classes: Files, write_tree: Write, cache: Path, content: str
) -> None:
    root = write_tree(two_classes)
    name = fingerprint(root)
    (path,) = cache.glob("fingerprint-*.txt")
    path.write_text(content)
    assert fingerprint(root) == name


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
