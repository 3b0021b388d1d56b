"""What image files hold: fingerprints by content, remembered while the files stay, and how many images are turned."""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gkd.data import content_at, fingerprint, load_images
from gkd.data.image_files import FolderSource, ZipSource

Files = dict[str, bytes]
Write = Callable[[Files], Path]


def photograph(orientation: int, seed: int = 0) -> bytes:
    """A random 8×8 image that states an orientation."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", exif=exif)
    return buffer.getvalue()


def forged(content: bytes, other: bytes) -> bytes:
    """``other`` with a tail that gives it the size and the CRC-32 of ``content``."""
    head = other[: len(content) - 4].ljust(len(content) - 4, b"\0")
    wanted, found = zlib.crc32(content), zlib.crc32(head + bytes(4))
    # CRC-32 is linear: the 32 bits of the tail that change the sum as it has to change.
    columns = [zlib.crc32(head + (1 << bit).to_bytes(4, "little")) ^ found for bit in range(32)]
    rows = [(column, 1 << bit) for bit, column in enumerate(columns)]
    difference, tail = wanted ^ found, 0
    for bit in range(32):
        pivot = next(i for i, (column, _) in enumerate(rows) if column >> bit & 1)
        column, bits = rows.pop(pivot)
        rows = [(c ^ column, b ^ bits) if c >> bit & 1 else (c, b) for c, b in rows]
        if difference >> bit & 1:
            difference, tail = difference ^ column, tail ^ bits
    assert difference == 0
    return head + tail.to_bytes(4, "little")


def test_the_same_content_has_the_same_names_whatever_it_is_packed_in(
    two_classes: Files, encoded: Callable[..., bytes], write_tree: Write, write_zip: Write
) -> None:
    content = content_at(write_tree(two_classes))
    assert content.sha256.startswith("sha256:")
    assert len(content.sha256) == 7 + 64
    packings = [
        two_classes,
        {f"animals/{path}": file for path, file in two_classes.items()},
        two_classes | {"README.md": b"not an image"},
    ]
    for files in packings:
        assert content_at(write_zip(files)) == content
    for changed in (
        two_classes | {"train/ant/00.png": encoded(77)},
        two_classes | {"test/ant/new.png": encoded(77)},
        {path.replace("ant", "ape"): file for path, file in two_classes.items()},
    ):
        other = content_at(write_zip(changed))
        assert other.sha256 != content.sha256
        assert other.crc != content.crc


def test_the_names_are_those_that_the_description_says(two_classes: Files, write_tree: Write) -> None:
    """A line of path, then the file's own sum; the older kind over size and CRC-32, as earlier versions printed it."""
    sums = {path: hashlib.sha256(file).hexdigest() for path, file in two_classes.items()}
    lines = "".join(f"{path}\0{sums[path]}\n" for path in sorted(two_classes))
    older = "".join(f"{path}\0{len(file)}:{zlib.crc32(file)}\n" for path, file in sorted(two_classes.items()))
    content = content_at(write_tree(two_classes))
    assert content.sha256 == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
    assert content.crc == hashlib.sha256(older.encode()).hexdigest()
    for name in (content.sha256, content.crc, f"crc:{content.crc}"):
        assert content.is_named(name)
    for name in ("ab" * 32, f"sha256:{content.crc}", f"crc:{content.sha256.removeprefix('sha256:')}"):
        assert not content.is_named(name)


@pytest.mark.parametrize("packed", [False, True])
def test_a_forged_image_of_the_same_size_and_crc_is_another(
    two_classes: Files, encoded: Callable[..., bytes], write_tree: Write, write_zip: Write, packed: bool
) -> None:
    """In a folder and in a zip, whose directory then says the same; and the decoded images are not the old ones."""
    path = "train/ant/00.png"
    other = forged(two_classes[path], encoded(77)[:150])
    assert (len(other), zlib.crc32(other)) == (len(two_classes[path]), zlib.crc32(two_classes[path]))
    write = write_zip if packed else write_tree
    before = content_at(write(two_classes))
    after = content_at(write(two_classes | {path: other}))
    assert after.crc == before.crc
    assert after.sha256 != before.sha256


def test_decoded_images_are_kept_by_content(two_classes: Files, write_tree: Write, write_zip: Write) -> None:
    """A photograph in the place of another of the same size, time and CRC-32 is decoded."""
    path, light = "train/ant/00.png", np.full((8, 8, 3), 255, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(light).save(buffer, "png")
    longest = max(len(two_classes[path]), len(buffer.getvalue()) + 4)
    files = two_classes | {
        path: two_classes[path].ljust(longest, b"\0")
    }  # a decoder stops at the image's end
    other = forged(files[path], buffer.getvalue())
    for write in (write_tree, write_zip):
        first = load_images("folder", "train", root=write(files))
        second = load_images("folder", "train", root=write(files | {path: other}))
        assert second.images[0].eq(255).all()
        assert not first.images[0].eq(255).all()


def test_files_are_read_once(
    two_classes: Files, write_tree: Write, write_zip: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And after one has changed, that one alone."""
    for write, source in ((write_zip, ZipSource), (write_tree, FolderSource)):
        root = write(two_classes)
        name = fingerprint(root)
        with monkeypatch.context() as patch:
            patch.setattr(source, "read", None)
            assert fingerprint(root) == name
    path = root / "train" / "ant" / "00.png"
    path.write_bytes(path.read_bytes() + b".")
    read, original = [], FolderSource.read
    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "read", lambda self, file: read.append(file) or original(self, file))
        changed = fingerprint(root)
    assert read == ["train/ant/00.png"]
    assert changed == fingerprint(write_zip(two_classes | {"train/ant/00.png": path.read_bytes()})) != name


def test_another_file_under_the_same_name_size_and_time_is_read(
    two_classes: Files, write_tree: Write
) -> None:
    """Its inode is another."""
    root = write_tree(two_classes)
    name = fingerprint(root)
    path = root / "train" / "ant" / "00.png"
    status = path.stat()
    other = path.with_name("00.other")
    other.write_bytes(two_classes["train/ant/00.png"][:-1] + b"\1")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert path.stat().st_size == status.st_size
    assert fingerprint(root) != name


def test_a_file_that_cannot_be_read_is_tried_again_at_the_next_start(
    two_classes: Files, write_tree: Write, write_zip: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(source: FolderSource, path: str) -> bytes:
        if path == "train/ant/00.png":
            raise PermissionError
        return two_classes[path]

    root = write_tree(two_classes)
    with monkeypatch.context() as patch:
        patch.setattr(FolderSource, "read", read)
        assert content_at(root).unreadable == 1
    assert content_at(root) == content_at(write_zip(two_classes))


@pytest.mark.parametrize("content", ["", "garbage", "0123456789abcdef\n{}"])
def test_what_was_remembered_and_is_damaged_is_read_again(
    two_classes: Files, write_tree: Write, cache: Path, content: str
) -> None:
    root = write_tree(two_classes)
    name = fingerprint(root)
    kept = [*cache.glob("content-*.txt"), *cache.glob("files-*.txt")]
    assert len(kept) == 2
    for path in kept:
        path.write_text(content)
    assert fingerprint(root) == name


def test_nothing_is_written_into_the_images_folder(two_classes: Files, write_tree: Write) -> None:
    root = write_tree(two_classes)
    load_images("folder", "train", root=root)
    assert sum(path.is_file() for path in root.rglob("*")) == len(two_classes)


def test_turned_images_are_counted(two_classes: Files, write_tree: Write) -> None:
    photographs = {f"train/cat/{n}.png": photograph(n) for n in range(1, 9)}
    assert content_at(write_tree(two_classes)).turned == 0
    assert content_at(write_tree(two_classes | photographs)).turned == 7


def test_a_damaged_member_of_a_zip_is_named_where_it_is_decoded(
    damaged_zip: Path, two_classes: Files, write_zip: Write
) -> None:
    assert content_at(damaged_zip).unreadable == 1
    root = write_zip(two_classes)
    assert content_at(root).unreadable == 0


def test_turned_and_stored_images_are_two_sets(two_classes: Files, write_tree: Write) -> None:
    """In memory and its cache, and streamed; without a tag they are one."""
    plain, tagged = two_classes, two_classes | {"train/ant/00.png": photograph(6)}
    for memory_gb in (8.0, 0.0):
        for files, same in ((plain, True), (tagged, False)):
            root = write_tree(files)
            read = [
                load_images("folder", "train", root=root, exif=exif, memory_gb=memory_gb, channels=3)
                for exif in ("apply", "ignore", "apply")
            ]
            names = [images.fingerprint() for images in read]
            assert (names[0] == names[1]) == same
            assert names[0] == names[2]
            assert read[0].streamed == (memory_gb == 0)
