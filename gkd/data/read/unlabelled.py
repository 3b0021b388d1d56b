"""Images without labels: a bare directory or zip of image files, at any depth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from gkd.core.batch import NO_LABEL
from gkd.core.errors import UserError
from gkd.data.decoding import Form
from gkd.data.image_files import open_source
from gkd.data.images import ImageSet, Pixels
from gkd.data.read.layouts import UNLABELLED
from gkd.data.read.load import read_files
from gkd.storage.preprocessing import Exif, Fit, Interpolation


def load_unlabelled(
    root: Path,
    like: ImageSet,
    *,
    image_size: int | None = None,
    fit: Fit = "stretch",
    exif: Exif = "apply",
    teacher_interpolation: Interpolation = "bilinear",
    interpolations: Mapping[str, Interpolation] | None = None,
    follow_links: bool = False,
    memory_gb: float = math.inf,
    workers: int = 0,
) -> ImageSet:
    """The images of a directory or zip without labels, in the form of labelled ones.

    Args:
        root: the directory or zip; images lie in it at any depth, and folders say nothing.
        like: the labelled images, whose channels, size and, where it has one, teacher's view these get.
        image_size: the side to which files are brought; None takes that of ``like``, whose images are squares then.
        teacher_interpolation: by which the images that the teacher sees are resized.
        interpolations: likewise for the views of several teachers, by name; bilinear where one is missing.
        fit, exif, follow_links, memory_gb, workers: as of :func:`gkd.data.load_images`.

    Returns:
        Images whose labels are all `NO_LABEL`, over a single placeholder of a class.

    Raises:
        UserError: nothing at ``root``, no image there, a file that cannot be decoded, or images of another size.
    """
    if not root.exists():
        where = "" if root.is_absolute() else f" in {Path.cwd()}"
        raise UserError(
            f"There is no file or folder {root}{where}; set data.unlabelled.root to the zip or folder of the images "
            "without labels.",
            code="data-root-missing",
        )

    def read(form_of: ImageSet, size: int | None, interpolation: Interpolation = "bilinear") -> ImageSet:
        with closing(open_source(root, follow_links=follow_links)) as source:
            form = Form(form_of.channels, size, fit, exif, interpolation=interpolation)
            images = read_files(source, UNLABELLED, "train", root, form, memory_gb, workers)
        if images.image_shape != form_of.image_shape:
            raise UserError(
                f"The images of {root} are {'×'.join(map(str, images.size))} (height×width) and those with labels "
                f"{'×'.join(map(str, form_of.size))}; set data.image_size for both.",
                code="mixed-image-shapes",
            )
        return images

    images = read(like, image_size or _side(like))
    of_teacher: Pixels | None = None
    if like.teacher_images is not None:
        of_teacher = read(like.as_teacher_sees, _side(like.as_teacher_sees), teacher_interpolation).images
    views: dict[str, Pixels] = {}
    for name in like.views:
        seen = like.seen_by(name).as_teacher_sees
        views[name] = read(seen, _side(seen), (interpolations or {}).get(name, "bilinear")).images
    labels = torch.full_like(images.labels, NO_LABEL)
    about = f"data.unlabelled ({root})"
    return replace(images, labels=labels, teacher_images=of_teacher, views=views, name=about)


def _side(images: ImageSet) -> int | None:
    height, width = images.size
    return height if height == width else None
