"""Rotations as new classes: each class four times, as in few-shot learning on Omniglot."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.data.images import ImageSet

_MARK = " turned by "
_DEGREES = (0, 90, 180, 270)


def with_rotations(images: ImageSet) -> ImageSet:
    """Append the images turned by 90, 180 and 270 degrees (anticlockwise), each turn as new classes.

    A class keeps its name; turned it is called ``NAME turned by 90``. Every image of a class is turned alike, unlike
    learn2learn's ``RandomClassRotation``, which turns all classes of an episode by one angle.

    Raises:
        UserError: images on disk, images that are not square, or classes that already have such names.

    Source:
        Santoro et al.: Meta-Learning with Memory-Augmented Neural Networks, ICML 2016.
    """
    height, width = images.size
    if height != width:
        raise UserError(
            f"Rotations need square images, but {images.name} has {height}×{width}; set data.image_size.",
            code="images-not-square",
        )
    if any(_MARK in name for name in images.space):
        raise UserError(
            f"{images.name} already has turned classes; leave out data.rotations.", code="rotations-twice"
        )
    of_teacher = [] if images.teacher_images is None else [images.teacher_images]
    everything = [images.images, *of_teacher, *images.views.values()]
    pixels = [part for part in everything if isinstance(part, Tensor)]
    if len(pixels) < len(everything):
        raise UserError(
            f"{images.name} is streamed from disk and cannot be turned; raise data.memory_gb.",
            code="needs-images-in-memory",
        )
    names = [name + (f"{_MARK}{angle}" if angle else "") for angle in _DEGREES for name in images.space]
    turned = [torch.cat([torch.rot90(part, turns, dims=(2, 3)) for turns in range(4)]) for part in pixels]
    count = len(images.space)
    return replace(
        images,
        images=turned[0],
        labels=torch.cat([images.labels + turns * count for turns in range(4)]),
        space=LabelSpace(names),
        files=None if images.files is None else images.files * 4,
        teacher_images=turned[1] if of_teacher else None,
        views=dict(zip(images.views, turned[1 + len(of_teacher) :], strict=True)),
    )


def unturned(name: str) -> str:
    """Return the original name of a rotated class; any other name as it is."""
    return name.partition(_MARK)[0]
