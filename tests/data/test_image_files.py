"""Image files in directories and zips: what decodes to what, and which file is named where one does not."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Resize

from gkd.data import load_images
from gkd.data.image_files import Form
from tests.refusals import refused

Files = dict[str, bytes]
Write = Callable[[Files], Path]
MakeFiles = Callable[..., Files]


def load(root: Path, split: str = "train", **settings: object):  # type: ignore[no-untyped-def]
    return load_images("folder", split, root=root, **settings)  # type: ignore[arg-type]


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


def test_a_damaged_file_inside_a_zip(two_classes: Files, write_zip: Write) -> None:
    root = write_zip(two_classes)
    content = bytearray(root.read_bytes())
    with zipfile.ZipFile(root) as archive:
        info = archive.getinfo("test/cat/01.png")
    content[info.header_offset + 30 + len(info.filename) + 60] ^= 255
    root.write_bytes(content)
    with refused("image-unreadable"):
        load(root)


@pytest.mark.parametrize("content", [b"", b"text, not pixels", "cut"])
def test_a_damaged_image(
    two_classes: Files, write_tree: Write, write_zip: Write, content: bytes | str
) -> None:
    damaged = two_classes["train/cat/01.png"][:90] if content == "cut" else content
    assert isinstance(damaged, bytes)
    for write in (write_tree, write_zip):
        with refused("image-unreadable"):
            load(write(two_classes | {"train/cat/01.png": damaged}))


def test_sixteen_bits_are_refused(two_classes: Files, write_zip: Write) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(buffer, "png")
    with refused("image-unreadable"):
        load(write_zip(two_classes | {"train/ant/00.png": buffer.getvalue()}))


@pytest.mark.parametrize("size", [(300, 400), (40, 31), (7, 9), (224, 224), (256, 511)])
@pytest.mark.parametrize("target", [8, 84, 224])
def test_a_crop_is_the_middle_of_the_resized_image(size: tuple[int, int], target: int) -> None:
    """As torchvision's Resize of the shorter side and CenterCrop, to the bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    found = Form(image_size=target, fit="crop").sized(image)
    expected = CenterCrop(target)(Resize(round(target * 8 / 7))(image))
    assert found.size == (target, target)
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_a_crop_keeps_proportions_where_stretching_does_not() -> None:
    circle = np.hypot(*np.mgrid[-50:50, -100:100]) < 40
    image = Image.fromarray(np.uint8(255 * circle))
    for fit, equal in (("crop", True), ("stretch", False)):
        inside = np.asarray(Form(image_size=64, fit=fit).sized(image)) > 127  # type: ignore[arg-type]
        height, width = inside.any(1).sum(), inside.any(0).sum()
        assert (abs(int(height) - int(width)) <= 1) == equal
