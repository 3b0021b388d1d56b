"""One image file as pixels: which formats are read, how it is turned upright, its channels and its size."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from gkd.core.errors import UserError
from gkd.core.memory import check_memory
from gkd.data.image_files import Source
from gkd.storage.preprocessing import Exif, Fit, Interpolation, shorter_side

# Only these decoders are tried on a file, whatever its name: Pillow has some sixty, a few of which start programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

GREY_MODES = ("1", "L", "LA")

_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")

# The orientations by which a camera says how it was held, and what turns the stored pixels upright; 1 is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow widens either filter where it makes an image smaller, which is what torch calls antialiasing.
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

_MOST_PIXELS = 178_000_000  # of one image: half a GiB in colour, and what Pillow itself takes for an attack

# What stands in every file that states an orientation: an EXIF block, or XMP in its place.
_SIGNS = (b"Exif", b"eXIf", b"EXIF", b"exif", b"xmp", b"XMP", b"rientation")


def upright(image: Image.Image) -> Image.Image:
    """An open image turned and mirrored as its EXIF orientation says; the same image where it states none.

    A TIFF, which Pillow turns by itself, comes as it is.
    """
    image.load()  # a PNG's EXIF may stand behind its pixels
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def is_turned(content: bytes) -> bool:
    """Whether ``upright`` changes the image that a file holds; False for what is no image."""
    if not any(sign in content for sign in _SIGNS):
        return False
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.format != "TIFF" and _turn(image) is not None
    except Exception:  # a damaged file is reported where it is decoded
        return False


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # of a damaged EXIF block; nothing is wrong with the pixels
        return None


def converted(image: Image.Image, channels: int | None) -> Image.Image:
    """Convert an open image to mode L (grey) or RGB.

    Args:
        image: as a decoder opened it.
        channels: 1 gives grey, 3 gives RGB, None keeps grey or colour as it is.

    Raises:
        ValueError: more than 8 bits a channel.
    """
    if image.mode not in GREY_MODES + _COLOUR_MODES:
        raise ValueError(f"pixels of mode {image.mode}; only 8 bits a channel are supported")
    grey = channels == 1 or (channels is None and image.mode in GREY_MODES)
    return image.convert("L" if grey else "RGB")


@dataclass(frozen=True)
class Form:
    """The channels and the size to which images are converted when they are read.

    Attributes:
        channels: 1 gives grey, 3 gives RGB, None keeps each image grey or colour as it is.
        image_size: pixels of a square, reached by PIL's (antialiased) filter; None leaves images as they are.
        fit: ``stretch`` resizes height and width each by its own factor; ``crop`` resizes the shorter side to 8/7 of
            ``image_size`` and takes the square in the middle (256 and 224, as ImageNet's networks are judged).
        exif: ``apply`` turns an image as its EXIF orientation says, before anything else; ``ignore`` leaves its pixels
            as they are stored (as torchvision's ``ImageFolder`` does).
        width: of a network that was trained on oblong images, whose height is ``image_size`` then; for ``stretch``.
        interpolation: the filter.

    Raises:
        UserError: a number of channels or a size that no image can have, or a size that no memory holds.
    """

    channels: int | None = None
    image_size: int | None = None
    fit: Fit = "stretch"
    exif: Exif = "apply"
    width: int | None = None
    interpolation: Interpolation = "bilinear"

    def __repr__(self) -> str:
        """As a dataclass's, but without the filter that all images had before there was another: caches' keys."""
        names = [each.name for each in fields(self)]
        if self.interpolation == "bilinear":
            names.remove("interpolation")
        return f"Form({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def __post_init__(self) -> None:
        if self.channels not in (None, 1, 3):
            raise UserError(
                f"Images have 1 or 3 channels, not {self.channels}; leave channels out for the data's own.",
                code="channels-out-of-range",
            )
        if self.image_size is not None and self.image_size < 1:
            raise UserError(
                f"The image size {self.image_size} is below 1; give pixels.", code="image-size-out-of-range"
            )
        size = self.image_size or 1
        channels, width = self.channels or 3, self.width or size
        # Twice: the resized image, and its pixels as an array.
        check_memory(
            2 * channels * size * width,
            f"One image of {channels}×{size}×{width}",
            "give a smaller data.image_size (or data.teacher_view.image_size)",
        )

    def on_the_way(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height to which an image of this size is resized, before ``crop`` takes its middle."""
        if self.image_size is None:
            return size
        if self.fit == "stretch":
            return self.width or self.image_size, self.image_size
        shorter = shorter_side(self.image_size)  # with the rounding of torchvision's Resize and CenterCrop
        width, height = (int(shorter * side / min(size)) for side in size)
        return width, height

    def sized(self, image: Image.Image) -> Image.Image:
        """Bring an image to the size."""
        size = self.image_size
        if size is None:
            return image
        width, height = self.on_the_way(image.size)
        if self.fit == "crop":
            left, top = round((width - size) / 2), round((height - size) / 2)
            image = image.resize((width, height), _FILTERS[self.interpolation])
            return image.crop((left, top, left + size, top + size))
        if image.size == (width, height):
            return image
        return image.resize((width, height), _FILTERS[self.interpolation])


def pixels_of(image: Image.Image, form: Form) -> np.ndarray:
    """The uint8 pixels of an open image as it is turned, ``[H, W]`` or ``[H, W, 3]``.

    Raises:
        ValueError: more than 8 bits a channel.
    """
    return np.asarray(form.sized(converted(image, form.channels)))


def open_image(source: Source, path: str, form: Form) -> Image.Image:
    """One image at its own size, upright unless ``form`` says otherwise, in mode L (grey) or RGB.

    Args:
        source: where it is.
        path: of the file in the source.
        form: its channels and whether it is turned; the size is left to ``form.sized``.

    Raises:
        UserError: a file that cannot be decoded (named), one of more than 8 bits a channel, or of too many pixels.
    """
    # Decoders report damage by many kinds of exception (OSError, SyntaxError, struct.error, zlib.error, …):
    # all mean that this file cannot be used.
    try:
        with Image.open(io.BytesIO(source.read(path)), formats=FORMATS) as image:
            _check_pixels(*form.on_the_way(image.size), "on the way to data.image_size")
            _check_pixels(*image.size, "as they are stored")
            return converted(upright(image) if form.exif == "apply" else image, form.channels)
    except (MemoryError, UserError):
        raise
    except Exception as error:
        unidentified = isinstance(error, UnidentifiedImageError)  # whose text is the address of a buffer
        reason = "it is of no known image format" if unidentified else error
        raise UserError(
            f"The image '{path}' in {source.label} cannot be decoded ({reason}); replace it or remove it.",
            code="image-unreadable",
        ) from error


def _check_pixels(width: int, height: int, when: str) -> None:
    """A few bytes of a file can state any size, and ``crop`` can make a long thin image a very large one."""
    if width * height > _MOST_PIXELS:
        raise ValueError(f"{width}×{height} pixels {when}; the most are {_MOST_PIXELS // 10**6} million")


def decode(source: Source, path: str, form: Form) -> np.ndarray:
    """One image as uint8 pixels.

    Returns:
        uint8 ``[H, W]`` for grey, ``[H, W, 3]`` for RGB.

    Raises:
        UserError: as :func:`open_image`.
    """
    return np.asarray(form.sized(open_image(source, path, form)))
