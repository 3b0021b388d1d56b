"""The data section of an experiment file: images, their limits, augmentation and batches."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from gkd.config.section import HomePath, Section
from gkd.data import LAYOUTS, augmentation, check_dataset_name
from gkd.methods.mixup import without_mixup
from gkd.storage.preprocessing import Interpolation


class Validation(Section):
    """The images that choose the best epoch; cut by seed before teacher and student are built.

    Attributes:
        per_class: how many of each class.
        fraction: or which share of each class.
        take: ``random`` ones, or the ``last`` of each class in the order of the files.
        seed: of the draw.
    """

    per_class: int | None = Field(default=None, ge=1)
    fraction: float | None = Field(default=None, gt=0, lt=1)
    take: Literal["random", "last"] = "random"
    seed: int = 0

    @model_validator(mode="after")
    def _one_size(self) -> Validation:
        if (self.per_class is None) == (self.fraction is None):
            raise ValueError("give per_class or fraction, one of them")
        return self


class TeacherView(Section):
    """The teacher's view of each of the student's samples, where it differs from the student's.

    Attributes:
        image_size: side of the teacher's images in pixels; None is as the student's.
        interpolation: by which the teacher's images are brought to their size, antialiased; of the weights that a
            library publishes it is what the library says, unless it is stated.
        channels: of the teacher's images; None is as the student's.
        augment: of the teacher's images, such as ``none`` for clean ones; None is as the student's.
        draws: whether its crops and flips are the ``same`` as the student's (of a larger image the same part, to a
            pixel), or its ``own``.
    """

    image_size: int | None = Field(default=None, ge=1)
    interpolation: Interpolation = "bilinear"
    channels: Literal[1, 3] | None = None
    augment: str | None = None
    draws: Literal["same", "own"] = "same"

    @field_validator("augment")
    @classmethod
    def _known_augmentation(cls, augment: str | None) -> str | None:
        return augment if augment is None else _known_augmentation(augment)


class Unlabelled(Section):
    """Images without labels, brought to the size and channels of those with.

    Attributes:
        root: where they lie: a folder or zip, at any depth; folders say nothing.
        fingerprint: of the images at ``root`` (``gkd.data.fingerprint(root, "unlabelled")``), verified when they are
            read. Without it the images found there name the run.
    """

    root: HomePath
    fingerprint: str | None = Field(default=None, pattern="^sha256:[0-9a-f]{64}$")


def _known_augmentation(augment: str) -> str:
    augmentation(augment)
    return augment


class Data(Section):
    """An image set, its validation split, its limits and how batches are made of it.

    Attributes:
        name: the data set (``gkd ls data``), or your own ``pkg.module:name``; its root is then part of the run's name,
            for its content is not known.
        root: where it lies: a folder or zip.
        download: whether a set that torchvision offers is fetched where it is not there.
        channels: 1 for grey, 3 for colour; None keeps the images' own.
        image_size: side in pixels to which images are brought; None keeps their own, where all have one size.
        fit: how image files of other proportions become a square of ``image_size``: ``stretch``, or ``crop``: the
            shorter side to 8/7 of it, then the middle.
        exif: of image files: ``apply`` turns each as its EXIF orientation says, ``ignore`` leaves its pixels as they
            are stored (as torchvision's ``ImageFolder`` does). It names a run only where an image states one.
        fingerprint: of the images at ``root`` (``gkd.data.fingerprint``), ``sha256:`` and 64 hex digits, verified when
            they are read. Without it the images found there name the run. 64 hex digits alone, or after ``crc:``, are
            of sizes and CRC-32, as earlier versions printed them.
        follow_links: take image files that are links to somewhere outside ``root``, which are refused else.
        rotations: every class four times, turned by 0, 90, 180 and 270 degrees, as classes of their own (Omniglot).
        unlabelled: images without labels, for the stages of a method that train on them (``data: unlabelled`` or
            ``both``).
        per_class: the student's training images a class; None takes all.
        subset_seed: draws those images; None draws them by ``run.seed``, anew for each seed.
        validation: the images that choose; drawn from those that no limit has taken.
        batch_size: images a step, over all processes together.
        views: augmented views an image; the teacher's outputs on them are computed once and shared by
            epochs, stages, methods and (under one ``subset_seed``) seeds. None augments anew every epoch.
        images_per_class: K, for class-balanced batches of P = batch_size / K classes in stages on all images; None
            shuffles.
        augment: names joined by ``+``, each perhaps with options (``gkd.data.augmentation``); a last ``mixup``
            or ``cutmix`` makes every term of every stage one on mixtures of images.
        teacher_view: how the teacher's view of a sample differs; None is as the student's.
        memory_gb: images that take more are streamed from disk.
        workers: processes that decode streamed images; None takes one a CPU.
        mean, std: the input normalisation; None measures it over the training images.
    """

    name: str
    root: HomePath | None = None
    exif: Literal["apply", "ignore"] = "apply"
    fingerprint: str | None = Field(default=None, pattern="^(sha256:|crc:)?[0-9a-f]{64}$")
    follow_links: bool = False
    download: bool = False
    rotations: bool = False
    unlabelled: Unlabelled | None = None
    channels: Literal[1, 3] | None = None
    image_size: int | None = Field(default=None, ge=1)
    fit: Literal["stretch", "crop"] = "stretch"
    per_class: int | None = Field(default=None, ge=1)
    subset_seed: int | None = Field(default=None, ge=0)
    validation: Validation = Validation(fraction=0.1)
    batch_size: int = Field(default=64, ge=2)
    images_per_class: int | None = Field(default=None, ge=2)
    augment: str = "crop-flip"
    teacher_view: TeacherView | None = None
    views: int | None = Field(default=None, ge=1)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    memory_gb: float = Field(default=8.0, ge=0)
    workers: int | None = Field(default=None, ge=0)

    @field_validator("name")
    @classmethod
    def _known_data(cls, name: str) -> str:
        check_dataset_name(name)
        return name

    @field_validator("augment")
    @classmethod
    def _known_augmentation(cls, augment: str) -> str:
        _known_augmentation(without_mixup(augment)[0])
        return augment

    @model_validator(mode="after")
    def _fingerprint_of_files(self) -> Data:
        if self.fingerprint is not None and self.name not in LAYOUTS:
            raise ValueError(
                f"fingerprint is for data sets of image files such as 'folder', not for {self.name!r}; drop it"
            )
        return self

    @model_validator(mode="after")
    def _exif_of_files(self) -> Data:
        if self.exif != "apply" and self.name not in LAYOUTS:
            raise ValueError(
                f"exif is for data sets of image files such as 'folder', which gkd decodes, not for {self.name!r}; "
                "drop it"
            )
        return self

    @model_validator(mode="after")
    def _crop_to_a_size(self) -> Data:
        if self.fit == "crop" and self.image_size is None:
            raise ValueError("fit: crop needs the image_size to crop to, such as image_size: 224")
        return self

    @model_validator(mode="after")
    def _mean_with_std(self) -> Data:
        if (self.mean is None) != (self.std is None):
            raise ValueError(
                "give both mean and std, or neither (then they are those of the training images)"
            )
        return self
