"""Files in directories and zips: what is opened, which links are followed, and what is too large to be read."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gkd.data import content_at, load_images
from gkd.data.image_files import open_source
from tests.refusals import refused

Files = dict[str, bytes]
Write = Callable[[Files], Path]


def load(root: Path, split: str = "train", **settings: object):  # type: ignore[no-untyped-def]
    return load_images("folder", split, root=root, **settings)  # type: ignore[arg-type]


def test_nothing_there(tmp_path: Path) -> None:
    with refused("data-root-missing"):
        load(tmp_path / "nowhere.zip")
    with refused("needs-data-root"):
        load_images("folder", "train")


def test_not_a_zip(two_classes: Files, write_zip: Write) -> None:
    root = write_zip(two_classes)
    whole = root.read_bytes()
    for content in (b"", b"no zip at all", whole[: len(whole) // 2]):
        root.write_bytes(content)
        with refused("zip-unreadable"):
            load(root)


@pytest.mark.parametrize("what", ["file", "folder", "split"])
def test_a_link_out_of_the_images_is_followed_only_where_that_is_asked_for(
    two_classes: Files, write_tree: Write, tmp_path: Path, what: str
) -> None:
    plain = content_at(write_tree(two_classes))
    path = {"file": "train/ant/00.png", "folder": "train/ant", "split": "train"}[what]
    root = tmp_path / "animals"
    elsewhere = tmp_path / "elsewhere"
    (root / path).rename(elsewhere)
    (root / path).symlink_to(elsewhere)
    for read in (load, lambda root: content_at(root)):
        with refused("link-outside"):
            read(root)
    assert len(load(root, follow_links=True)) == 6
    assert content_at(root, follow_links=True).sha256 == plain.sha256


def test_links_within_the_images_and_to_all_of_them_need_no_leave(
    two_classes: Files, write_tree: Write, tmp_path: Path
) -> None:
    root = write_tree(two_classes)
    (root / "train" / "ant" / "again.png").symlink_to(root / "train" / "ant" / "00.png")
    (root / "train" / "ant" / "beside.png").symlink_to("../cat/00.png")
    (root / "train" / "ant" / ".hidden.png").symlink_to("/etc/passwd")
    (tmp_path / "link").symlink_to(root)
    images = load(tmp_path / "link")
    assert images.class_counts().tolist() == [5, 3]
    # A folder whose name begins with that of the images is outside all the same.
    (tmp_path / "animals-of-others").mkdir()
    (root / "train" / "fox").symlink_to(tmp_path / "animals-of-others")
    with refused("link-outside"):
        load(root)


def test_a_folder_that_links_to_itself(two_classes: Files, write_tree: Write) -> None:
    root = write_tree(two_classes)
    (root / "train" / "ant" / "all").symlink_to(root / "train")
    for follow_links in (False, True):
        with refused("link-circle"):
            load(root, follow_links=follow_links)


def test_a_file_too_large_to_be_an_image_is_not_read(
    two_classes: Files, write_tree: Write, write_zip: Write
) -> None:
    """Of a sparse file and of a zip that packs a thousand to one."""
    root = write_tree(two_classes)
    os.truncate(root / "train" / "ant" / "00.png", 6 * 2**30)
    with refused("data-file-too-large"):
        load(root)
    packed = write_zip(two_classes)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("train/ant/large.png", b"")
    content = bytearray(packed.read_bytes())
    at = content.rindex(b"train/ant/large.png") - 22  # the size in the central directory
    content[at : at + 4] = (2**32 - 2).to_bytes(4, "little")
    packed.write_bytes(content)
    with refused("data-file-too-large"):
        load(packed)


@pytest.mark.parametrize(("at", "value"), [(8, 1), (10, 97)])
def test_a_list_that_is_encrypted_or_packed_in_an_unknown_way(write_zip: Write, at: int, value: int) -> None:
    """The flag of encryption, and the number of a method that no program has."""
    packed = write_zip({"train.csv": b"filename,label\n", "images/": b"", "val.csv": b"", "test.csv": b""})
    content = bytearray(packed.read_bytes())
    for mark, offset in ((b"PK\x03\x04", at - 2), (b"PK\x01\x02", at)):
        content[content.index(mark) + offset] = value
    packed.write_bytes(content)
    with refused("data-file-unreadable"):
        load_images("mini_imagenet", "train", root=packed)


def test_a_version_changes_with_the_file(two_classes: Files, write_tree: Write) -> None:
    """An image of the same size and modification time in another's place has another inode."""
    root = write_tree(two_classes)
    path = root / "train" / "ant" / "00.png"
    before, status = open_source(root).version("train/ant/00.png"), path.stat()
    other = path.with_name("other")
    other.write_bytes(bytes(status.st_size))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert open_source(root).version("train/ant/00.png") != before
