"""Operations on whole batches in which every image has a strength of its own, for TrivialAugment and others.

Each maps uint8 ``[N, C, H, W]`` and float64 strengths ``[N]`` to uint8 ``[N, C, H, W]``. Given one strength it does
what torchvision's operation of that name does on a tensor (nearest neighbours, black outside the image). Products and
sums are rounded one by one: a fused multiply-add rounds otherwise in a vector loop than in its scalar tail, and a pixel
would depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gkd.data.image_operations import image_operations

Operation = Callable[[Tensor, Tensor], Tensor]

# The weights of red, green and blue in grey, as torchvision has them (ITU-R BT.601).
_GREY = (0.2989, 0.587, 0.114)


def by_image(values: Tensor) -> Tensor:
    """Numbers ``[N]`` as float32 ``[N, 1, 1, 1]``, to broadcast over images."""
    return values.to(torch.float32).reshape(-1, 1, 1, 1)


def _to_pixels(values: Tensor) -> Tensor:
    return values.clamp(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """float32 ``[N, 1, H, W]``: whole levels of grey; of images without three channels their first one."""
    if images.shape[1] != 3:
        return images[:, :1].float()
    red, green, blue = (part * weight for part, weight in zip(images.float().unbind(1), _GREY, strict=True))
    return (red + green + blue).floor().unsqueeze(1)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """``factor`` · images + (1 - factor) · other."""
    factor = factor.double()
    return _to_pixels(images.float() * by_image(factor) + other * by_image(1 - factor))


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Every pixel times the factor."""
    return _to_pixels(images.float() * by_image(factor))


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the pixel's grey by the factor; images without three channels stay."""
    return _blend(images, _grey(images), factor) if images.shape[1] == 3 else images


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the image's mean grey by the factor."""
    grey = _grey(images)
    # Whole levels: their sum is exact in float64, in whatever order.
    mean = grey.sum(dim=(1, 2, 3), dtype=torch.float64) / grey[0].numel() if len(grey) else grey.new_zeros(0)
    return _blend(images, by_image(mean), factor)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """The hue of HSV turned by a share of the circle, [-0.5, 0.5]; images without three channels stay.

    With hue h in sixths, channel n of (5, 3, 1) is ``max - (max - min) · clamp(min(k, 4 - k), 0, 1)`` where
    ``k = (n + h) mod 6``.
    """
    if images.shape[1] != 3:
        return images
    red, green, blue = images.float().unbind(1)
    least, most = torch.aminmax(images.float(), dim=1)
    span = most - least
    divisor = torch.where(span == 0, 1.0, span)
    sixths = torch.where(
        most == red,
        (green - blue) / divisor,
        torch.where(most == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    sixths = sixths + 6 * by_image(turn)[:, 0]
    k = (torch.tensor([5.0, 3.0, 1.0], device=images.device).view(3, 1, 1) + sixths.unsqueeze(1)).remainder(6)
    turned = most.unsqueeze(1) - span.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1)
    # As torchvision rounds floats to levels: 256 steps of equal width, a little less than 1 the last.
    return _to_pixels(turned * (255.999 / 255))


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the smoothed image by the factor; the outermost pixels stay.

    The smoothed pixel is the mean of its 3x3 square in which it counts five times.
    """
    if min(images.shape[2:]) <= 2:
        return images
    values = images.float()
    height, width = images.shape[2:]
    inner = values[:, :, 1:-1, 1:-1]
    total = 4 * inner  # whole numbers up to 13 * 255: exact
    for row in range(3):
        for column in range(3):
            total = total + values[:, :, row : row + height - 2, column : column + width - 2]
    by = by_image(1 - factor.double())
    result = values.clone()
    result[:, :, 1:-1, 1:-1] = inner + by * ((total / 13).round() - inner)
    return _to_pixels(result)


def posterise(images: Tensor, bits: Tensor) -> Tensor:
    """The upper bits of each pixel; 8 are all."""
    kept = 256 - (2 ** (8 - bits.to(torch.int64)))
    return images & kept.to(torch.uint8).reshape(-1, 1, 1, 1)


def solarise(images: Tensor, threshold: Tensor) -> Tensor:
    """Pixels from the threshold on are inverted."""
    return torch.where(images.float() >= by_image(threshold), 255 - images, images)


def invert(images: Tensor, _: Tensor) -> Tensor:
    """Black and white exchanged."""
    return 255 - images


def auto_contrast(images: Tensor, _: Tensor) -> Tensor:
    """Every channel stretched to all levels."""
    result: Tensor = image_operations().autocontrast(images)
    return result


def equalise(images: Tensor, _: Tensor) -> Tensor:
    """Every channel's histogram made even."""
    result: Tensor = image_operations().equalize(images)
    return result


def _moved(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixel nearest to each source place.

    Args:
        images: uint8 ``[N, C, H, W]``.
        rows, columns: float64, which broadcast to ``[N, H, W]``: whence each pixel comes, in pixels.
    """
    height, width = images.shape[2:]
    rows, columns = torch.broadcast_tensors(rows.round().long(), columns.round().long())
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    place = (rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).flatten(1)
    moved = images.flatten(2).gather(2, place.unsqueeze(1).expand(-1, images.shape[1], -1))
    return moved.view_as(images).masked_fill(~inside.unsqueeze(1), 0)


def _places(images: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``[1, H, 1]`` and columns ``[1, 1, W]`` of the pixels, float64."""
    height, width = images.shape[2:]
    rows = torch.arange(height, dtype=torch.float64, device=images.device)
    columns = torch.arange(width, dtype=torch.float64, device=images.device)
    return rows.view(1, -1, 1), columns.view(1, 1, -1)


def shear_x(images: Tensor, slope: Tensor) -> Tensor:
    """Rows moved to the left by the slope times their height, from the upper left corner on."""
    rows, columns = _places(images)
    return _moved(images, rows, columns + slope.double().view(-1, 1, 1) * (rows + 0.5))


def shear_y(images: Tensor, slope: Tensor) -> Tensor:
    """Columns moved up by the slope times their place, from the upper left corner on."""
    rows, columns = _places(images)
    return _moved(images, rows + slope.double().view(-1, 1, 1) * (columns + 0.5), columns)


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """Moved to the right by whole pixels; a fraction is dropped."""
    rows, columns = _places(images)
    return _moved(images, rows, columns - pixels.double().trunc().view(-1, 1, 1))


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Moved down by whole pixels; a fraction is dropped."""
    rows, columns = _places(images)
    return _moved(images, rows - pixels.double().trunc().view(-1, 1, 1), columns)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turned about the middle, counter-clockwise."""
    rows, columns = _places(images)
    middle_row, middle_column = (images.shape[2] - 1) / 2, (images.shape[3] - 1) / 2
    angle = torch.deg2rad(degrees.double()).view(-1, 1, 1)
    down, right = rows - middle_row, columns - middle_column
    sine, cosine = angle.sin(), angle.cos()
    return _moved(
        images, sine * right + cosine * down + middle_row, cosine * right - sine * down + middle_column
    )


def identity(images: Tensor, _: Tensor) -> Tensor:
    """The images as they are."""
    return images


def apply_each(operations: tuple[Operation, ...], images: Tensor, chosen: Tensor, strength: Tensor) -> Tensor:
    """Every image after the operation that it drew; the images of one operation go through it together.

    Args:
        operations: what is drawn from.
        images: uint8 ``[B, C, H, W]``.
        chosen: int64 ``[B]``, numbers of operations; -1 leaves an image as it is.
        strength: float64 ``[B]``, in the operation's own unit.
    """
    result = images.clone()
    for number in chosen.unique().tolist():
        if number >= 0:
            rows = torch.nonzero(chosen == number).flatten()
            result[rows] = operations[number](result[rows], strength[rows])
    return result
