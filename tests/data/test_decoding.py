"""One image file as pixels: what decodes to what, upright, and which file is named where one does not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from gkd.data import load_images
from gkd.data.decoding import Form, decode, is_turned
from gkd.data.read.arrays import _conform
from tests.refusals import refused

Files = dict[str, bytes]
Write = Callable[[Files], Path]
MakeFiles = Callable[..., Files]


def load(root: Path, split: str = "train", **settings: object):  # type: ignore[no-untyped-def]
    return load_images("folder", split, root=root, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "RGB"])
def test_colour_modes(write_zip: Write, encoded: Callable[..., bytes], mode: str) -> None:
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


def test_a_damaged_file_inside_a_zip(damaged_zip: Path) -> None:
    with refused("image-unreadable"):
        load(damaged_zip)


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


@pytest.mark.parametrize("target", [8, 84])
def test_bicubic_is_torchvisions_and_antialiased(target: int) -> None:
    waves = np.sin(np.arange(40) / 2)[:, None] * np.cos(
        np.arange(31)
    )  # no overshoot, which Pillow clips on its way
    image = Image.fromarray(np.uint8(128 + 60 * waves))
    by_pillow = np.asarray(Form(1, target, interpolation="bicubic").sized(image))
    resize = Resize((target, target), InterpolationMode.BICUBIC, antialias=True)
    assert np.array_equal(by_pillow, np.asarray(resize(image)))
    stored = torch.from_numpy(np.array(image))[None, None]
    by_torch = _conform(stored, 1, target, "bicubic")[0, 0].numpy().astype(int)
    assert np.abs(by_torch - by_pillow).max() <= 1  # it rounds between the two directions
    assert not np.array_equal(by_pillow, np.asarray(Form(1, target).sized(image)))


def test_a_form_without_a_filter_of_its_own_is_called_as_before() -> None:
    """Caches of decoded images and of teachers' outputs have it in their keys."""
    usual = "Form(channels=None, image_size=8, fit='stretch', exif='apply', width=None)"
    assert repr(Form(image_size=8)) == usual
    assert repr(Form(image_size=8, interpolation="bicubic")) == f"{usual[:-1]}, interpolation='bicubic')"


def test_a_crop_keeps_proportions_where_stretching_does_not() -> None:
    circle = np.hypot(*np.mgrid[-50:50, -100:100]) < 40
    image = Image.fromarray(np.uint8(255 * circle))
    for fit, equal in (("crop", True), ("stretch", False)):
        inside = np.asarray(Form(image_size=64, fit=fit).sized(image)) > 127  # type: ignore[arg-type]
        height, width = inside.any(1).sum(), inside.any(0).sum()
        assert (abs(int(height) - int(width)) <= 1) == equal


# Each orientation, and how the upright image has been stored: the operation that its camera applied.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}
UPRIGHT = np.random.default_rng(5).integers(0, 256, (6, 10, 3), dtype=np.uint8)


def as_stored(orientation: int, kind: str = "png") -> bytes:
    """``UPRIGHT`` as a camera stores it that was held so, with the tag that says how."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    lossless = {"lossless": True} if kind == "webp" else {}
    pixels = np.ascontiguousarray(STORED[orientation](UPRIGHT))
    Image.fromarray(pixels).save(buffer, kind, exif=exif, **lossless)
    return buffer.getvalue()


class Held:
    """A source of one file."""

    label = "held"

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self, path: str) -> bytes:
        return self.content


def decoded(content: bytes, **form: object) -> np.ndarray:
    return decode(Held(content), "0", Form(**form))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", STORED)
def test_an_image_is_turned_as_its_camera_was_held(orientation: int, kind: str) -> None:
    """Mirrored ones too. Pillow turns a TIFF by itself, whether asked or not."""
    content = as_stored(orientation, kind)
    assert np.array_equal(decoded(content), UPRIGHT)
    as_it_is = UPRIGHT if kind == "tiff" else STORED[orientation](UPRIGHT)
    assert np.array_equal(decoded(content, exif="ignore"), as_it_is)
    assert is_turned(content) == (orientation != 1 and kind != "tiff")


def test_size_crop_and_grey_are_of_the_turned_image() -> None:
    content = as_stored(6)
    for form in ({"image_size": 4}, {"image_size": 4, "fit": "crop"}, {"channels": 1}):
        assert np.array_equal(decoded(content, **form), decoded(as_stored(1), **form)), form


def test_a_jpeg_of_a_phone_is_turned() -> None:
    """JPEG is lossy, so the halves of the picture are compared: dark above, bright below."""
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    pixels[16:] = 255
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 8, "Phone"
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels, -1))).save(buffer, "jpeg", exif=exif)
    found = decoded(buffer.getvalue())
    assert found.shape == (32, 64, 3)
    assert found[:14].max() < 60
    assert found[18:].min() > 195


def test_xmp_says_the_orientation_where_exif_does_not() -> None:
    """In a PNG it may be packed, so that the word itself does not stand in the file."""
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    packed = PngInfo()
    packed.add_itxt("XML:com.adobe.xmp", xmp, zip=True)
    image = Image.fromarray(np.ascontiguousarray(STORED[3](UPRIGHT)))
    for kind, options in (
        ("webp", {"lossless": True, "xmp": xmp.encode()}),
        ("png", {"pnginfo": packed}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        assert is_turned(buffer.getvalue()), kind
        assert np.array_equal(decoded(buffer.getvalue()), UPRIGHT)


@pytest.mark.parametrize("orientation", [0, 9, 60_000])
def test_an_orientation_that_there_is_not_turns_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(UPRIGHT).save(buffer, "png", exif=exif)
    assert np.array_equal(decoded(buffer.getvalue()), UPRIGHT)
    assert not is_turned(buffer.getvalue())


def test_a_damaged_exif_block_leaves_the_pixels_as_they_are() -> None:
    buffer = io.BytesIO()
    Image.fromarray(UPRIGHT).save(buffer, "png", exif=b"Exif\x00\x00no such thing")
    assert np.array_equal(decoded(buffer.getvalue()), UPRIGHT)
    assert not is_turned(buffer.getvalue())


@pytest.mark.parametrize("kind", ["ico", "tga", "pcx", "eps", "jpeg2000", "sgi"])
def test_a_format_that_is_not_in_the_list_is_not_decoded_whatever_the_name(kind: str) -> None:
    """Pillow has decoders that start programs, as that of EPS does."""
    buffer = io.BytesIO()
    Image.fromarray(UPRIGHT).save(buffer, kind)
    with refused("image-unreadable"):
        decoded(buffer.getvalue())


@pytest.mark.parametrize("kind", ["bmp", "gif", "jpeg", "png", "ppm", "tiff", "webp"])
def test_every_format_that_is_in_the_list_is_decoded_whatever_the_name(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(UPRIGHT).save(buffer, kind)
    assert decoded(buffer.getvalue()).shape == UPRIGHT.shape


def test_an_image_of_too_many_pixels_is_not_decoded() -> None:
    """A few bytes that state 20,000 × 20,000; and a line that a crop would make as large."""
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "png")
    with refused("image-unreadable"):
        decoded(buffer.getvalue())
    line = io.BytesIO()
    Image.new("L", (30_000, 1)).save(line, "png")
    assert decoded(line.getvalue(), image_size=8).shape == (8, 8)
    with refused("image-unreadable"):
        decoded(line.getvalue(), image_size=224, fit="crop")


@pytest.mark.parametrize("size", [20_000, 2**31, 10**12])
def test_a_size_that_no_memory_holds_is_refused_before_it_is_taken(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gkd.core.memory.available_memory", lambda: 2**30)
    with refused("memory-missing"):
        Form(3, size)
