"""What a caller in Python hands over, as gkd has it: images, networks, a method, settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn
from torch.utils.data import DataLoader, Dataset

from gkd.config.mistakes import sentences
from gkd.config.shipped import load_method
from gkd.core.batch import NO_LABEL
from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.core.network import Network
from gkd.data import ImageSet, from_dataset
from gkd.distill.teacher import Teacher
from gkd.methods.method import Method
from gkd.methods.optimiser import Optimiser
from gkd.methods.stage import Stage
from gkd.methods.terms import Term
from gkd.models.taps import tap
from gkd.training.device import choose_device, choose_dtype
from gkd.training.settings import Settings

Images = ImageSet | Dataset[Any] | DataLoader[Any]


def settings_for(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    seed: int,
    batch_size: int,
    augment: str,
    device: str,
    precision: str,
) -> Settings:
    """Training settings with this normalisation of the input; the other arguments are those of ``gkd.fit``.

    Raises:
        UserError: a number out of range, or a device or precision that there is not.
    """
    _check_whole("seed", seed, 0)
    _check_whole("batch_size", batch_size, 2)
    place = choose_device(device)
    return Settings(
        seed=seed, batch_size=batch_size, augment=augment, mean=mean, std=std, device=place,
        dtype=choose_dtype(precision, place),
    )  # fmt: skip


def _check_whole(name: str, number: int, least: int) -> None:
    if not isinstance(number, int) or number < least:
        raise UserError(
            f"{name}={number!r} is no whole number of {least} or more; give one.", code="number-out-of-range"
        )


def like(train: ImageSet, images: ImageSet, name: str) -> ImageSet:
    """Further images with the columns of the training images; refused where they cannot have them."""
    _check_shape(train, images, name)
    missing = [label for label in train.space if label not in images.space]
    if missing:
        raise UserError(
            f"{name} has no image of {len(missing)} of the {len(train.space)} classes to train on "
            f"({', '.join(missing[:10])}); give some of each.",
            code="class-without-images",
        )
    return images.restrict(train.space)


def without_labels(train: ImageSet, unlabelled: ImageSet | None) -> ImageSet | None:
    """Images for a method that trains on some without labels, whatever labels they have; None stays None.

    Raises:
        UserError: images of another shape than those to train on.
    """
    if unlabelled is None:
        return None
    _check_shape(train, unlabelled, "unlabelled")
    return replace(unlabelled, labels=torch.full_like(unlabelled.labels, NO_LABEL))


def _check_shape(train: ImageSet, images: ImageSet, name: str) -> None:
    if images.image_shape != train.image_shape:
        raise UserError(
            f"The images of {name} are {list(images.image_shape)}, those to train on {list(train.image_shape)}; give "
            "all in one shape [C, H, W].",
            code="other-image-shape",
        )


def image_set(data: Images, name: str) -> ImageSet:
    """Images in any form that ``gkd.fit`` takes, as an ImageSet.

    Raises:
        UserError: no data set of images and labels, or one whose items change from one reading to the next.
    """
    if isinstance(data, ImageSet):
        return data
    dataset: Any = data.dataset if isinstance(data, DataLoader) else data
    for number in range(min(len(dataset), 4) if hasattr(dataset, "__len__") else 0):
        first, again = dataset[number], dataset[number]
        if isinstance(first, (tuple, list)) and first and not _equal(first[0], again[0]):
            raise UserError(
                f"Item {number} of {name} is another image each time it is read; leave random transforms out, and "
                "augment by augment='crop-flip' or another name of `gkd ls augmentations`.",
                code="random-items",
            )
    return from_dataset(dataset, name=name)


def _equal(first: Any, again: Any) -> bool:
    return bool(torch.equal(torch.as_tensor(np.asarray(first)), torch.as_tensor(np.asarray(again))))


def method_of(
    method: str | Method | Mapping[str, Term], epochs: int | None, optimiser: Mapping[str, Any]
) -> Method:
    """The method of that name, with those terms, or as it is; with these keys in every stage's optimiser."""
    if epochs is not None:
        _check_whole("epochs", epochs, 1)
    if not isinstance(optimiser, Mapping):
        raise UserError(
            f"optimiser is a {type(optimiser).__name__}; give its keys, such as {{'name': 'AdamW', 'lr': 0.001}}.",
            code="invalid-optimiser",
        )
    if isinstance(method, str):
        method = load_method(method)
    elif not isinstance(method, Method):
        if epochs is None:
            raise UserError("Terms alone say no length; give epochs.", code="epochs-missing")
        try:
            stage = Stage(epochs=epochs, terms=dict(method))
        except ValidationError as error:
            raise UserError(sentences(error, Stage, "method"), code="invalid-method") from None
        method = Method(name="terms", paper="", summary="terms of the caller's", stages={"distil": stage})
    if not optimiser:
        return method
    stages = {}
    for name, stage in method.stages.items():
        try:
            changed = Optimiser.model_validate({**stage.optimiser.model_dump(), **optimiser})
        except ValidationError as error:
            raise UserError(sentences(error, Optimiser, "optimiser"), code="invalid-optimiser") from None
        stages[name] = stage.model_copy(update={"optimiser": changed})
    return method.model_copy(update={"stages": stages})


def as_network(module: nn.Module, num_classes: int) -> Any:
    """A gkd network as it is, any other module tapped; refused where it has another number of columns."""
    if not isinstance(module, nn.Module):
        raise UserError(
            f"The student is a {type(module).__name__}; give a torch.nn.Module from images to logits.",
            code="not-a-module",
        )
    network = module if isinstance(module, Network) else tap(module)
    if network.num_classes != num_classes:
        raise UserError(
            f"The student has {network.num_classes} outputs and the images have {num_classes} classes; "
            "give it as many.",
            code="other-classes",
        )
    return network


def as_teacher(teacher: Teacher | nn.Module, classes: LabelSpace) -> Teacher:
    """A network as a teacher: of the student's classes where it has as many columns, else of unnamed ones."""
    if isinstance(teacher, Teacher):
        return teacher
    network = teacher if isinstance(teacher, Network) else tap(teacher)
    return Teacher(network, classes if network.num_classes == len(classes) else None)
