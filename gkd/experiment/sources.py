"""Read the images of a data section: training, validation and test, and their statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gkd.config import schema
from gkd.core.cpus import available_cpus
from gkd.core.errors import UserError
from gkd.core.memory import check_memory
from gkd.data import (
    LAYOUTS,
    Content,
    ImageSet,
    channel_statistics,
    content_at,
    listing_of,
    load_images,
    load_unlabelled,
    split_validation,
)
from gkd.data.images import Pixels
from gkd.data.read.layouts import UNLABELLED
from gkd.data.read.listing import Split
from gkd.data.rotations import with_rotations
from gkd.problems.problem import Source
from gkd.training.caches import Caches

Views = Mapping[str, schema.TeacherView | None]


def load_source(data: schema.Data, caches: Caches | None = None, views: Views | None = None) -> Source:
    """A data set with its validation split, cut per class by the split's own seed.

    Args:
        data: the section.
        caches: hold the data sets that were read last, for all sections that read the same images in the same form;
            without them it is read anew.
        views: those of several teachers, by name, instead of the section's own.

    Raises:
        UserError: images that cannot be read, or are not those of the section's fingerprint.
    """
    read = data.model_copy(update={key: schema.Data.model_fields[key].default for key in _OF_BATCHES})
    views = dict(views or {})
    if views:
        read = read.model_copy(update={"teacher_view": None})
    key = (read, *views.items()) if views else read
    source = (caches or Caches()).sources.get(key, lambda: _read_source(read, views))
    for images in (source.train, source.test):
        _check_batches(images, data.batch_size)
        _check_batches(images.as_teacher_sees, data.batch_size)
        for name in images.views:
            _check_batches(images.seen_by(name).as_teacher_sees, data.batch_size)
    return source


# Keys of the data section that change no labelled image that is read, but what batches are made of them.
_OF_BATCHES = (
    "batch_size", "augment", "per_class", "subset_seed", "images_per_class", "views", "mean", "std", "unlabelled",
)  # fmt: skip


def load_unlabelled_images(
    data: schema.Data, like: ImageSet, caches: Caches | None = None, views: Views | None = None
) -> ImageSet | None:
    """The images without labels of a data section, in the form of labelled ones; None where it has none.

    Args:
        data: the section.
        like: its labelled images.
        caches, views: as for ``load_source``.

    Raises:
        UserError: images that cannot be read, or are not those of the section's fingerprint.
    """
    section = data.unlabelled
    if section is None:
        return None
    seen = [view.interpolation if view else None for view in (data.teacher_view, *(views or {}).values())]
    shapes = [like.as_teacher_sees.image_shape]
    shapes += [(name, *pixels.shape[1:]) for name, pixels in like.views.items()]
    form = (like.image_shape, tuple(shapes), tuple(seen), data.image_size, data.fit, data.exif)
    key = (section, *form, data.follow_links, data.memory_gb, data.workers)
    return (caches or Caches()).unlabelled.get(
        key, lambda: _read_unlabelled(data, section, like, views or {})
    )


def _read_unlabelled(data: schema.Data, section: schema.Unlabelled, like: ImageSet, views: Views) -> ImageSet:
    if section.fingerprint is not None and section.root.exists():
        content = content_at(section.root, UNLABELLED, follow_links=data.follow_links)
        _check_named(content, section.root, section.fingerprint, "data.unlabelled")
    return load_unlabelled(
        section.root,
        like,
        image_size=data.image_size,
        fit=data.fit,
        exif=data.exif,
        teacher_interpolation=data.teacher_view.interpolation if data.teacher_view else "bilinear",
        interpolations={name: view.interpolation for name, view in views.items() if view is not None},
        follow_links=data.follow_links,
        memory_gb=data.memory_gb,
        workers=available_cpus() if data.workers is None else data.workers,
    )


def _check_named(content: Content, root: Path, fingerprint: str, section: str) -> None:
    """Refuse images of another fingerprint; files that cannot be read are all named where they are decoded."""
    if not content.is_named(fingerprint) and not content.unreadable:
        raise UserError(
            f"The images at {section}.root {root} are not those of {section}.fingerprint {fingerprint[:19]}...: get "
            f"the right ones, or set {section}.fingerprint={content.sha256} (or null, for any).",
            code="other-images",
        )


def _read_source(data: schema.Data, views: Views) -> Source:
    if data.fingerprint is not None and data.root is not None:
        content = content_at(data.root, data.name, follow_links=data.follow_links)
        _check_named(content, data.root, data.fingerprint, "data")
    train, test = _load_split(data, "train", views), _load_split(data, "test", views)
    cut = data.validation
    train, validation = split_validation(
        train, per_class=cut.per_class, fraction=cut.fraction, take=cut.take, seed=cut.seed
    )
    other = None
    if data.name in LAYOUTS and data.root is not None and not set(train.space) & set(test.space):
        there = listing_of(data.name, data.root, follow_links=data.follow_links).splits.get("validation")
        other = (
            _load_split(data, "validation", views)
            if there and not set(there.classes) & set(train.space)
            else None
        )
    return Source(train, validation, test, other)


def _load_split(data: schema.Data, split: Split, views: Views) -> ImageSet:
    """The images of a split, with the teachers' views of them where they differ."""
    images = _read_split(data, split, views)
    return with_rotations(images) if data.rotations else images


def _read_split(data: schema.Data, split: Split, views: Views) -> ImageSet:
    workers = available_cpus() if data.workers is None else data.workers
    read = partial(
        load_images,
        data.name,
        split,
        root=data.root,
        download=data.download,
        fit=data.fit,
        exif=data.exif,
        follow_links=data.follow_links,
        memory_gb=data.memory_gb,
        workers=workers,
    )
    images = read(channels=data.channels, image_size=data.image_size)
    # Teachers of one form share their pixels.
    forms: dict[tuple[int, int | None, str], Pixels] = {}

    def seen(view: schema.TeacherView | None) -> Pixels | None:
        """The pixels of a view; None where they are the student's."""
        if view is None:
            return None
        size = images.size if view.image_size is None else (view.image_size, view.image_size)
        same = (view.channels or images.channels, *size) == images.image_shape
        if same and view.interpolation == "bilinear":
            return None
        form = (view.channels or images.channels, view.image_size or data.image_size, view.interpolation)
        if form not in forms:
            of_view = read(channels=form[0], image_size=form[1], interpolation=view.interpolation)
            forms[form] = of_view.images
        return None if same and _equal(forms[form], images.images) else forms[form]

    pixels = {name: seen(view) for name, view in views.items()}
    return replace(
        images,
        teacher_images=seen(data.teacher_view),
        views={name: each for name, each in pixels.items() if each is not None},
    )


def _equal(first: Pixels, second: Pixels) -> bool:
    """Whether images are known to be the same pixels, as those are that have their size already."""
    return isinstance(first, Tensor) and isinstance(second, Tensor) and torch.equal(first, second)


def _check_batches(images: ImageSet, batch_size: int) -> None:
    """Refuse batches that the memory does not hold: the pixels, and twice as floats, for their augmentation."""
    size = min(batch_size, len(images))
    shape = "×".join(map(str, images.image_shape))
    check_memory(
        9 * size * math.prod(images.image_shape),
        f"A batch of {size} images of {shape}",
        "give a smaller data.image_size or data.batch_size",
    )


def statistics(
    data: schema.Data,
    images: ImageSet | None = None,
    *,
    of_teacher: bool = False,
    caches: Caches | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The input normalisation: as configured, or measured over the training images (as the teacher sees them).

    Args:
        data: the data set.
        images: instead of all its training images.
        of_teacher: measures what the teacher sees of them.
        caches: as for ``load_source``.

    Raises:
        UserError: another number of values than the images have channels.
    """
    of_student = load_source(data, caches).train if images is None else images
    images = of_student.as_teacher_sees if of_teacher else of_student
    # data.mean and data.std apply only to images with the student's channels.
    if data.mean is not None and data.std is not None and images.channels == of_student.channels:
        for key, values in (("mean", data.mean), ("std", data.std)):
            if len(values) != images.channels:
                raise UserError(
                    f"data.{key} has {len(values)} numbers but the images have {images.channels} channels; give one "
                    "number per channel, or leave out mean and std to have them measured.",
                    code="other-channels",
                )
        return data.mean, data.std
    return rounded_statistics(images)


def rounded_statistics(images: ImageSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, rounded, so that teacher and student over the same data share one
    normalised view.
    """
    mean, std = channel_statistics(images)
    return tuple(round(float(m), 4) for m in mean), tuple(max(round(float(s), 4), 1e-4) for s in std)
