"""Any map-style ``torch.utils.data.Dataset`` with labels as an ImageSet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.core.memory import check_memory
from gkd.core.text import decoded
from gkd.core.user_code import told
from gkd.data.decoding import Form, pixels_of
from gkd.data.images import ImageSet
from gkd.data.read.listing import check_like
from gkd.storage.preprocessing import Fit, Interpolation

_WHERE = ("targets", "labels", "get_labels")


def from_dataset(
    dataset: Any,
    *,
    classes: Sequence[str] | None = None,
    channels: int | None = None,
    image_size: int | None = None,
    fit: Fit = "stretch",
    interpolation: Interpolation = "bilinear",
    name: str = "dataset",
) -> ImageSet:
    """Read every item of a data set once, in order, into memory.

    Args:
        dataset: has ``len()``, items that begin with (image, label), and the labels of all items in
            ``.targets``, ``.labels`` or ``get_labels()``, as columns or as class names; or a ``TensorDataset`` of
            images and labels, or a ``Subset`` or ``ConcatDataset`` of such ones. An image is a PIL
            image; uint8 pixels; or floats in [0, 1] (``ToTensor`` without ``Normalize``). Arrays and tensors
            are ``[H, W]``, ``[H, W, C]`` or ``[C, H, W]`` with C of 1 or 3 (where both fit: a tensor is
            ``[C, H, W]``, an array ``[H, W, C]``). Random transforms would be frozen: leave them to
            ``data.augment``.
        classes: the class names in the order of the columns; None takes ``dataset.classes``, or else the
            sorted labels themselves.
        channels: 1 or 3; None keeps the data's own, and refuses grey images among colour ones.
        image_size: pixels of a square to which every image is resized (antialiased); None asks for images of one
            size.
        fit: ``stretch`` images to the square, or ``crop`` it out of their middle.
        interpolation: by which they are resized.
        name: of the data set, for messages.

    Raises:
        UserError: no length or no labels, labels that contradict the items or are none of the classes, an
            item that is no such image (its number is named), images of several sizes.
    """
    form = Form(channels, image_size, fit, interpolation=interpolation)
    labels = _labels(dataset, name)
    names, columns = _columns(labels, _classes(dataset, name) if classes is None else classes, name)
    decoded: np.ndarray | None = None
    first = np.empty(0)
    for i in range(len(labels)):
        try:
            item = dataset[i]
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"Item {i} of {name} cannot be read: {told(error)}", code="item-unreadable"
            ) from error
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise UserError(
                f"Item {i} of {name} is a {type(item).__name__}; it has to be (image, label).",
                code="not-a-pair",
            )
        label = _plain(item[1])
        if label not in (labels[i], columns[i], names[columns[i]]):
            raise UserError(
                f"Item {i} of {name} has the label {label!r}, but the data set's list of labels says {labels[i]!r}; "
                "make them agree.",
                code="other-labels",
            )
        image = _pixels(item[0], form, f"item {i}", name)
        if decoded is None:
            first = image
            check_memory(
                len(labels) * image.size,
                f"The {len(labels)} images of {name}, decoded,",
                "give a smaller data.image_size",
            )
            decoded = np.empty(
                (len(labels), *(1 if image.ndim == 2 else 3, *image.shape[:2])), dtype=np.uint8
            )
        check_like(image, f"item {i}", first, "item 0", name)
        decoded[i] = image if image.ndim == 2 else image.transpose(2, 0, 1)
    assert decoded is not None, "_labels refuses an empty data set"
    files = tuple(f"item {i}" for i in range(len(labels)))
    return ImageSet(
        torch.from_numpy(decoded), torch.tensor(columns), LabelSpace(names), files=files, name=name
    )


def _classes(dataset: Any, name: str) -> Sequence[str] | None:
    """The class names that a data set states, or the ones that it is a subset or made of."""
    stated: Sequence[str] | None = getattr(dataset, "classes", None)
    if stated is not None:
        return stated
    if isinstance(dataset, Subset):
        return _classes(dataset.dataset, name)
    if not isinstance(dataset, ConcatDataset):
        return None
    of_parts = [_classes(part, name) for part in dataset.datasets]
    distinct = {None if names is None else tuple(map(str, names)) for names in of_parts}
    if len(distinct) > 1:
        raise UserError(
            f"{name} is made of data sets that state other classes each, so the same label means another class in "
            "each; give them the same classes in the same order, or classes=[...], which holds for all of them.",
            code="other-classes",
        )
    return of_parts[0]


def _stated_labels(dataset: Any) -> list[Any] | None:
    """The labels that a data set states, or those that it is a subset or made of; None where one states none."""
    for attribute in _WHERE:
        listed = getattr(dataset, attribute, None)
        if listed is not None:
            return [_plain(label) for label in (listed() if callable(listed) else listed)]
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        return [_plain(label) for label in dataset.tensors[1]]
    if isinstance(dataset, Subset):
        whole = _stated_labels(dataset.dataset)
        return None if whole is None else [whole[number] for number in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        labels: list[Any] = []
        for part in dataset.datasets:
            of_part = _stated_labels(part)
            if of_part is None:
                return None
            labels += of_part
        return labels
    return None


def _labels(dataset: Any, name: str) -> list[Any]:
    """The label of each item, as plain integers or strings."""
    try:
        count = len(dataset)
    except TypeError:
        raise UserError(
            f"{name} is a {type(dataset).__name__} without a length; give a map-style data set with len() and [i].",
            code="length-missing",
        ) from None
    labels = _stated_labels(dataset)
    if labels is None:
        raise UserError(
            f"{name} is a {type(dataset).__name__} without labels; give it .targets, .labels or get_labels(), the "
            "label of each item.",
            code="labels-missing",
        )
    if len(labels) != count:
        raise UserError(
            f"{name} has {count} items, but states {len(labels)} labels; make them agree.",
            code="other-label-count",
        )
    if not labels:
        raise UserError(f"{name} has no item.", code="no-images")
    return labels


def _plain(label: Any) -> Any:
    """A label as a plain value: the content of a tensor or array."""
    if isinstance(label, (Tensor, np.ndarray, np.generic)):
        return label.tolist() if label.ndim == 0 else label.reshape(-1).tolist()
    return label


def _columns(labels: list[Any], classes: Any, name: str) -> tuple[list[str], list[int]]:
    """The class names, and the column of each label in them."""
    kinds = {type(label) for label in labels}
    if kinds not in ({int}, {str}):
        shown = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise UserError(
            f"The labels of {name} are of type {shown}; they have to be all integers or all names.",
            code="label-types",
        )
    distinct = sorted(set(labels))
    names = [str(entry) for entry in (distinct if classes is None else classes)]
    keys: Sequence[Any] = distinct if classes is None else names if kinds == {str} else range(len(names))
    column = {key: i for i, key in enumerate(keys)}
    for label in distinct:
        if label not in column:
            what = (
                f"names of the {len(names)} classes" if kinds == {str} else f"columns 0 to {len(names) - 1}"
            )
            raise UserError(
                f"{name} has the label {label!r}, which is none of the {what}; correct either.",
                code="unknown-label",
            )
    return [decoded(each) for each in names], [column[label] for label in labels]


def _pixels(image: Any, form: Form, item: str, name: str) -> np.ndarray:
    """One image as uint8 ``[H, W]`` or ``[H, W, 3]``."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(_array(image, item, name))
    try:
        return pixels_of(image, form)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(
            f"The image of {item} in {name} has {error}.", code="unsupported-image-mode"
        ) from None


def _array(image: Any, item: str, name: str) -> np.ndarray:
    """A tensor or array as uint8 ``[H, W]`` or ``[H, W, 3]``."""
    if not isinstance(image, (Tensor, np.ndarray)):
        raise UserError(
            f"The image of {item} in {name} is a {type(image).__name__}; give PIL images, uint8 pixels, or floats "
            "in [0, 1] as ToTensor makes them.",
            code="not-an-image",
        )
    places_of_c = (0, -1) if isinstance(image, Tensor) else (-1, 0)
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = image.float() if image.is_floating_point() else image
    values = np.asarray(image)
    shape = list(values.shape)
    if values.ndim == 3:
        places = [place for place in places_of_c if values.shape[place] in (1, 3)]
        values = np.moveaxis(values, places[0], -1) if places else values
        values = values[..., 0] if values.shape[-1] == 1 else values
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[-1] == 3)) or 0 in shape:
        raise UserError(
            f"The image of {item} in {name} has the shape {shape}; give [H, W], [H, W, C] or [C, H, W], C of 1 or 3.",
            code="image-shape",
        )
    if np.issubdtype(values.dtype, np.floating):
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # NaN fails it too
            raise UserError(
                f"The image of {item} in {name} has values from {low:g} to {high:g}, outside [0, 1]: normalised or "
                "scaled already; leave Normalize out, because gkd normalises itself (data.mean, data.std).",
                code="pixels-out-of-range",
            )
        values = np.rint(values * 255).astype(np.uint8)
    if values.dtype != np.uint8:
        raise UserError(
            f"The image of {item} in {name} has the type {values.dtype}; give uint8 pixels or floats in [0, 1].",
            code="pixel-type",
        )
    return np.ascontiguousarray(values)
