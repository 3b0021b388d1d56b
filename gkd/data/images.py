"""ImageSet: one split of a data set as uint8 pixels, labelled by columns of a LabelSpace."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gkd.core.batch import NO_LABEL
from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.core.short_repr import short_repr
from gkd.data.streamed_pixels import StreamedPixels

Pixels = Tensor | StreamedPixels

_HASHED_AT_ONCE = 4096  # images; bounds the host memory that hashing a set on a GPU takes


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one size, in memory or streamed from disk.

    A sample's number is its position here; order, augmentation and memories refer to it.

    Attributes:
        images: uint8 ``[N, C, H, W]``, 0 to 255; ``StreamedPixels`` of that shape where they stay on disk.
        labels: int64 ``[N]``, columns of ``space``; `NO_LABEL` of an image without one.
        space: the class names.
        files: N names by which a message can point at a sample; None where the data has none.
        name: the data set's name, for messages.
        teacher_images: the same samples as the teacher sees them, of another size or other channels; None where
            it sees ``images``.
        views: the same samples as each of several teachers sees them, by its name; one that is missing sees ``images``.

    Raises:
        UserError: shapes or dtypes other than these.
    """

    images: Pixels
    labels: Tensor
    space: LabelSpace
    files: tuple[str, ...] | None = None
    name: str = "images"
    teacher_images: Pixels | None = None
    views: Mapping[str, Pixels] = field(default_factory=dict)

    __repr__ = short_repr

    def __post_init__(self) -> None:
        for pixels in (self.images, self.teacher_images, *self.views.values()):
            if not isinstance(pixels, Tensor):
                continue
            if pixels.dtype != torch.uint8 or pixels.dim() != 4:
                raise UserError(
                    f"The images of {self.name} are {pixels.dtype} {list(pixels.shape)}; give uint8 [N, C, H, W] from "
                    "0 to 255.",
                    code="not-pixels",
                )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise UserError(
                f"The labels of the {len(self.images)} images of {self.name} are {self.labels.dtype} "
                f"{list(self.labels.shape)}; give int64 [N], a label for each.",
                code="not-labels",
            )
        of_views = ((f"images of the view {name!r}", pixels) for name, pixels in self.views.items())
        for what, parts in (("file names", self.files), ("teacher images", self.teacher_images), *of_views):
            if parts is not None and len(parts) != len(self.images):
                raise UserError(
                    f"{self.name} has {len(self.images)} images and {len(parts)} {what}; give one for each.",
                    code="other-count",
                )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """1 (greyscale) or 3 (RGB)."""
        return int(self.images.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.images.shape[2]), int(self.images.shape[3])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of one image."""
        return self.channels, *self.size

    @property
    def streamed(self) -> bool:
        """Whether the pixels stay on disk."""
        return isinstance(self.images, StreamedPixels)

    @property
    def as_teacher_sees(self) -> ImageSet:
        """The same samples with the teacher's pixels."""
        if self.teacher_images is None:
            return self
        return replace(self, images=self.teacher_images, teacher_images=None)

    def seen_by(self, teacher: str) -> ImageSet:
        """The same samples for one of several teachers alone, whose pixels become ``teacher_images``."""
        return replace(self, teacher_images=self.views.get(teacher), views={})

    def select(self, index: Tensor) -> ImageSet:
        """The samples at int64 ``index`` ``[M]``, in that order, renumbered from 0; the space stays."""
        index = index.to(self.labels.device)
        return replace(
            self,
            images=self.images[index],
            labels=self.labels[index],
            files=None if self.files is None else tuple(self.files[i] for i in index.tolist()),
            teacher_images=None if self.teacher_images is None else self.teacher_images[index],
            views={name: pixels[index] for name, pixels in self.views.items()},
        )

    def restrict(self, space: LabelSpace) -> ImageSet:
        """Only the images of the classes of ``space``, relabelled by name to its columns.

        The images keep their order; the classes get that of ``space``.

        Raises:
            UserError: a class that the data does not have, or one without an image.
        """
        # Every column of the data gets its new column, -1 for a class that is left out.
        column = torch.full((len(self.space),), -1, dtype=torch.int64)
        for new, name in enumerate(space):
            column[self.space.column(name)] = new
        labels = column.to(self.labels.device)[self.labels]
        index = torch.nonzero(labels >= 0).flatten()
        chosen = replace(self.select(index), labels=labels[index], space=space)
        for name, count in zip(space, chosen.class_counts().tolist(), strict=True):
            if count == 0:
                raise UserError(_no_image(name, self.name), code="class-without-images")
        return chosen

    def class_counts(self) -> Tensor:
        """int64 ``[C]`` on the CPU: the number of images of each class of ``space``."""
        labels = self.labels.cpu()
        return torch.bincount(labels[labels != NO_LABEL], minlength=len(self.space))

    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of shape, pixels, labels and class names; computed once.

        File names, the set's name and the device do not count: the same samples in the same order have
        the same fingerprint wherever they came from. Pixels on disk count by stamp and file names, unread.
        """
        sha256: str | None = self.__dict__.get("_fingerprint")
        if sha256 is None:
            digest = hashlib.sha256(repr((tuple(self.images.shape), self.space.names)).encode())
            _hash_pixels(digest, self.images)
            digest.update(self.labels.cpu().numpy().tobytes())
            if self.teacher_images is not None:
                digest.update(repr(tuple(self.teacher_images.shape)).encode())
                _hash_pixels(digest, self.teacher_images)
            for name, pixels in sorted(self.views.items()):
                digest.update(repr((name, tuple(pixels.shape))).encode())
                _hash_pixels(digest, pixels)
            sha256 = digest.hexdigest()
            self.__dict__["_fingerprint"] = sha256  # the dataclass is frozen; this is only a cache
        return sha256

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with labels, and the pixels that are in memory, on ``device``."""
        moved = replace(
            self,
            images=_to(self.images, device),
            labels=self.labels.to(device),
            teacher_images=None if self.teacher_images is None else _to(self.teacher_images, device),
            views={name: _to(pixels, device) for name, pixels in self.views.items()},
        )
        if "_fingerprint" in self.__dict__:
            moved.__dict__["_fingerprint"] = self.__dict__["_fingerprint"]
        return moved


def gather(sets: Sequence[ImageSet], space: LabelSpace, *, name: str | None = None) -> ImageSet:
    """Concatenate the images of the classes of ``space`` in several sets of one image size.

    Args:
        sets: at least one; a set need not have every class of ``space``.
        space: the classes, whose columns the labels become.
        name: of the new set, for messages; None takes that of the first.

    Raises:
        UserError: a class of which no set has an image, or sets that differ in image size, channels or storage.
    """
    parts = []
    for images in sets:
        shared = [column for column, class_name in enumerate(images.space) if class_name in space]
        new = torch.full((len(images.space),), -1, dtype=torch.int64)
        new[shared] = torch.tensor(
            [space.column(images.space.names[column]) for column in shared], dtype=torch.int64
        )
        labels = new.to(images.labels.device)[images.labels]
        index = torch.nonzero(labels >= 0).flatten()
        parts.append(replace(images.select(index), labels=labels[index], space=space))
    teacher_pixels = [part.teacher_images for part in parts if part.teacher_images is not None]
    names = [name for name in parts[0].views if all(name in part.views for part in parts)]
    files = [part.files for part in parts if part.files is not None]
    result = ImageSet(
        _joined([part.images for part in parts]),
        torch.cat([part.labels for part in parts]),
        space,
        files=tuple(itertools.chain(*files)) if len(files) == len(parts) else None,
        name=name or parts[0].name,
        teacher_images=_joined(teacher_pixels) if len(teacher_pixels) == len(parts) else None,
        views={name: _joined([part.views[name] for part in parts]) for name in names},
    )
    for class_name, count in zip(space, result.class_counts().tolist(), strict=True):
        if count == 0:
            raise UserError(_no_image(class_name, result.name), code="class-without-images")
    return result


def _no_image(class_name: str, where: str) -> str:
    return f"The class {class_name!r} has no image in {where}; leave it out or add images of it."


def _joined(pixels: Sequence[Pixels]) -> Pixels:
    if len({tuple(part.shape[1:]) for part in pixels}) > 1:
        raise UserError(
            "The splits of the data have images of several sizes or channels; set data.image_size.",
            code="mixed-image-shapes",
        )
    tensors = [part for part in pixels if isinstance(part, Tensor)]
    streamed = [part for part in pixels if isinstance(part, StreamedPixels)]
    if not streamed:
        return torch.cat(tensors)
    if tensors:
        raise UserError(
            "Some splits of the data are in memory and others on disk; set data.memory_gb for all.",
            code="memory-and-disk-mixed",
        )
    stamp = hashlib.sha256("".join(part.stamp for part in streamed).encode()).hexdigest()
    files = tuple(itertools.chain(*(part.files for part in streamed)))
    return replace(streamed[0], files=files, stamp=stamp)


def _to(pixels: Pixels, device: torch.device | str) -> Pixels:
    return pixels.to(device) if isinstance(pixels, Tensor) else pixels


def _hash_pixels(digest: hashlib._Hash, pixels: Pixels) -> None:
    if isinstance(pixels, StreamedPixels):
        digest.update(f"{pixels.stamp}\n{pixels.files}".encode("utf-8", "surrogateescape"))
        return
    for chunk in pixels.split(_HASHED_AT_ONCE):
        digest.update(chunk.cpu().numpy().tobytes())
