"""ImageSet: one split of a data set as one uint8 tensor, labelled by columns of a LabelSpace."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gkd.errors import UserError
from gkd.labels import LabelSpace

_HASHED_AT_ONCE = 4096  # images; bounds the host memory that hashing a set on a GPU takes


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one size, all in memory.

    A sample's number is its position here; order, augmentation and memories refer to it.

    Attributes:
        images: uint8 ``[N, C, H, W]``, 0 to 255.
        labels: int64 ``[N]``, columns of ``space``.
        space: the class names.
        files: N names by which a message can point at a sample; None where the data has none.
        name: the data set's name, for messages.

    Raises:
        ValueError: shapes or dtypes other than these.
    """

    images: Tensor
    labels: Tensor
    space: LabelSpace
    files: tuple[str, ...] | None = None
    name: str = "images"

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise ValueError(
                f"images must be uint8 [N, C, H, W], not {self.images.dtype} {list(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels must be int64 [N], not {self.labels.dtype} {list(self.labels.shape)}")
        if self.files is not None and len(self.files) != len(self.images):
            raise ValueError(f"{len(self.files)} file names for {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """1 (greyscale) or 3 (RGB)."""
        return int(self.images.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.images.shape[2]), int(self.images.shape[3])

    def select(self, index: Tensor) -> ImageSet:
        """The samples at int64 ``index`` ``[M]``, in that order, renumbered from 0; the space stays."""
        index = index.to(self.images.device)
        files = None if self.files is None else tuple(self.files[i] for i in index.tolist())
        return replace(self, images=self.images[index], labels=self.labels[index], files=files)

    def restrict(self, space: LabelSpace) -> ImageSet:
        """Only the images of the classes of ``space``, relabelled by name to its columns.

        The images keep their order; the classes get that of ``space``.

        Raises:
            UserError: a class that the data does not know, or one without an image.
        """
        # Every column of the data gets its new column, -1 for a class that is left out.
        column = torch.full((len(self.space),), -1, dtype=torch.int64)
        for new, name in enumerate(space):
            column[self.space.column(name)] = new
        labels = column.to(self.labels.device)[self.labels]
        kept = torch.nonzero(labels >= 0).flatten()
        chosen = replace(self.select(kept), labels=labels[kept], space=space)
        for name, count in zip(space, chosen.class_counts().tolist(), strict=True):
            if count == 0:
                raise UserError(
                    f"The class {name!r} has no image in {self.name}; leave it out or add images of it."
                )
        return chosen

    def class_counts(self) -> Tensor:
        """int64 ``[C]`` on the CPU: the number of images of each class of ``space``."""
        return torch.bincount(self.labels.cpu(), minlength=len(self.space))

    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of shape, pixels, labels and class names; computed once.

        File names, the set's name and the device do not enter: the same samples in the same order have
        the same fingerprint wherever they came from.
        """
        known: str | None = self.__dict__.get("_fingerprint")
        if known is None:
            digest = hashlib.sha256(repr((tuple(self.images.shape), self.space.names)).encode())
            for chunk in self.images.split(_HASHED_AT_ONCE):
                digest.update(chunk.cpu().numpy().tobytes())
            digest.update(self.labels.cpu().numpy().tobytes())
            known = digest.hexdigest()
            self.__dict__["_fingerprint"] = known  # the dataclass is frozen; this is only a cache
        return known

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with images and labels on ``device``."""
        moved = replace(self, images=self.images.to(device), labels=self.labels.to(device))
        if "_fingerprint" in self.__dict__:
            moved.__dict__["_fingerprint"] = self.__dict__["_fingerprint"]
        return moved
