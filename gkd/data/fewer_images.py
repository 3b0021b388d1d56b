"""Fewer images of each class: a validation split, few-image training sets, random exemplars.

Every draw is made class by class, as a pure function of (seed, class name, number of images of the class).
The other classes do not matter, so a class has the same images in two overlapping windows.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.data.addressed_random import (
    PURPOSE_LIMIT,
    PURPOSE_MEMORY,
    PURPOSE_VALIDATION,
    hash_order,
    key_of,
)
from gkd.data.images import ImageSet


def _positions(images: ImageSet) -> list[Tensor]:
    """For each class the int64 CPU positions of its images, ascending."""
    order = torch.argsort(images.labels.cpu(), stable=True)
    return list(order.split(images.class_counts().tolist()))


def name_key(name: str) -> int:
    """A class name as a 64-bit integer (Python's own hash of a string changes from process to process)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def _joined(parts: list[Tensor]) -> Tensor:
    """The positions of all classes, back in the order of the data."""
    return torch.cat(parts).sort().values


def limit_per_class(images: ImageSet, per_class: int, *, seed: int) -> ImageSet:
    """Draw ``per_class`` images of each class at random by seed; they stay in the order of the data.

    With one seed a smaller draw is part of a larger one.

    Raises:
        UserError: ``per_class`` below 1, or a class that has fewer images.
    """
    if per_class < 1:
        raise UserError(
            f"A limit of {per_class} images per class leaves none; use 1 or more.", code="limit-out-of-range"
        )
    chosen = []
    for name, positions in zip(images.space, _positions(images), strict=True):
        if len(positions) < per_class:
            raise UserError(
                f"The class {name!r} of {images.name} has {len(positions)} images, fewer than the "
                f"{per_class} asked for; use at most {int(images.class_counts().min())} per class.",
                code="too-few-images",
            )
        order = hash_order(key_of(PURPOSE_LIMIT, seed, name_key(name)), len(positions))
        chosen.append(positions[order[:per_class]])
    return images.select(_joined(chosen))


def random_order(name: str, count: int, *, seed: int) -> Tensor:
    """A random order of the images of a class, int64 ``[count]``, which does not depend on the other classes."""
    return hash_order(key_of(PURPOSE_MEMORY, seed, name_key(name)), count)


def evened(images: ImageSet, *, seed: int) -> ImageSet:
    """Draw from every class with images as many as the smallest of them has, at random by seed."""
    positions_of = {
        name: positions
        for name, positions in zip(images.space, _positions(images), strict=True)
        if len(positions)
    }
    fewest = min(map(len, positions_of.values()))
    chosen = [
        positions[random_order(name, len(positions), seed=seed)[:fewest]]
        for name, positions in positions_of.items()
    ]
    return images.select(torch.cat(chosen))


def split_validation(
    images: ImageSet,
    *,
    per_class: int | None = None,
    fraction: float | None = None,
    take: Literal["random", "last"] = "random",
    seed: int = 0,
) -> tuple[ImageSet, ImageSet]:
    """Split a set into training and validation images, stratified by class, each in the order of the data.

    Args:
        images: the set to split.
        per_class: the number of validation images of each class; give this or ``fraction``.
        fraction: the validation share of each class in (0, 1), rounded, at least one image.
        take: ``"random"`` draws by seed; ``"last"`` takes each class's last images in the data's order.
        seed: of the draw.

    Returns:
        (train, validation)

    Raises:
        UserError: both or neither of ``per_class`` and ``fraction``, one out of range, or a class that
            would be left without a training image.
    """
    if (per_class is None) == (fraction is None):
        raise UserError(
            "A validation split needs its number of images per class or its fraction, one of the two; "
            f"given were per_class = {per_class} and fraction = {fraction}.",
            code="per-class-or-fraction",
        )
    if per_class is not None and per_class < 1:
        raise UserError(
            f"A validation split of {per_class} images per class holds nothing out; use 1 or more.",
            code="validation-out-of-range",
        )
    if fraction is not None and not 0 < fraction < 1:
        raise UserError(
            f"The validation fraction {fraction} is outside (0, 1); 0.1 holds out one in ten.",
            code="fraction-out-of-range",
        )
    if take not in ("random", "last"):
        raise UserError(
            f"A validation split takes 'random' or 'last' images, not {take!r}.",
            code="unknown-validation-choice",
        )
    train, validation = [], []
    for name, positions in zip(images.space, _positions(images), strict=True):
        held_out = per_class if per_class is not None else max(1, round((fraction or 0.0) * len(positions)))
        if held_out >= len(positions):
            raise UserError(
                f"The class {name!r} of {images.name} has {len(positions)} images; holding out {held_out} "
                "for validation leaves none to train on; lower data.validation.per_class, or set "
                "data.validation={fraction: 0.1}.",
                code="no-training-images",
            )
        if take == "random":
            order = hash_order(key_of(PURPOSE_VALIDATION, seed, name_key(name)), len(positions))
            positions = positions[order]
        train.append(positions[: len(positions) - held_out])
        validation.append(positions[len(positions) - held_out :])
    return images.select(_joined(train)), images.select(_joined(validation))
