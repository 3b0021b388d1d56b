"""Class orders, windows and shares of a label space, and the class splits of few-shot learning by name.

Each split is a text file in ``gkd/core/class_lists`` that says its source; names are in alphabetical order, which
for CIFAR-100 is that of its label ids.
"""

from __future__ import annotations

from importlib import resources

import numpy as np

from gkd.core.errors import UserError, unknown
from gkd.core.labels import LabelSpace

CLASS_SPLITS = ("cifar_fs", "fc100", "mini_imagenet", "cub_chen", "cub_meta_dataset")


def class_split(name: str) -> dict[str, list[str]]:
    """The training, validation and test classes of a named class split.

    Args:
        name: ``cifar_fs`` (64, 16 and 20 classes of CIFAR-100), ``fc100`` (60, 20 and 20 of them, by
            superclass), ``mini_imagenet`` (64, 16 and 20 WordNet ids), and of CUB-200-2011's species ``cub_chen`` (100,
            50 and 50) or ``cub_meta_dataset`` (140, 30 and 30).

    Returns:
        ``{"train": [...], "validation": [...], "test": [...]}``, no class in two of them.

    Raises:
        UserError: an unknown name.
    """
    if name not in CLASS_SPLITS:
        raise UserError(unknown("class split", name, CLASS_SPLITS), code="unknown-class-split")
    text = (resources.files("gkd") / "core" / "class_lists" / f"{name}.txt").read_text(encoding="utf-8")
    split: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.endswith(":"):
            split[line[:-1]] = []
        elif line and not line.startswith("#"):
            split[list(split)[-1]].append(line)
    return split


# Orders beside "natural": name -> the class split whose training, validation and test classes it lists.
# "cifar_fs" is the order of the GKD windows (Ye et al. 2022; njulus/GKD@a37fc79, utils/split_class.py), which
# sorts each of the three by label id; CIFAR-100's ids are in alphabetical order.
NAMED_ORDERS = {"cifar_fs": "cifar_fs"}


def class_order(space: LabelSpace, order: str = "natural") -> LabelSpace:
    """The classes of a data set in a named order.

    Args:
        space: the data set's classes in their natural (sorted) order.
        order: ``"natural"``, or a number such as ``"1993"``: NumPy's legacy generator with that seed
            permutes the classes, the convention of the incremental-learning literature; or a key of
            :data:`NAMED_ORDERS`: ``"cifar_fs"`` lists CIFAR-100's classes as the GKD experiments do.

    Raises:
        UserError: an unknown order, or a named order of other classes than the data's.
    """
    if order == "natural":
        return space
    if order in NAMED_ORDERS:
        names = [name for part in class_split(NAMED_ORDERS[order]).values() for name in part]
        odd = sorted(set(names) ^ set(space))
        if odd:
            lacks = "lack" if odd[0] in names else "also have"
            raise UserError(
                f"Class order {order!r} is of {len(names)} given classes, but the data {lacks} {odd[0]!r}; use it for "
                "data with exactly those classes, or 'natural' or a seed.",
                code="other-classes",
            )
        return space.select(names)
    if order.isdecimal() and int(order) < 2**32:
        permutation = np.random.RandomState(int(order)).permutation(len(space))
        return space.select([int(column) for column in permutation])
    named = ", ".join(repr(name) for name in NAMED_ORDERS)
    raise UserError(
        f"Class order {order!r} is unknown; use 'natural', {named}, or a seed below 2^32 such as '1993'.",
        code="unknown-class-order",
    )


def window(space: LabelSpace, *, size: int, shift: int = 0, order: str = "natural") -> LabelSpace:
    """Classes ``order[shift : shift + size]``: the label-space windows of the GKD experiments.

    The teacher's window has shift 0, the student's shift r: r = 0 is the same space, 0 < r < size
    overlaps in size - r classes, r = size is disjoint (njulus/GKD, Ye et al. 2022).

    Raises:
        UserError: a window larger than the data, or a negative shift.
    """
    if size < 1 or shift < 0 or shift + size > len(space):
        raise UserError(
            f"The window of {size} classes at shift {shift} needs classes {shift} to {shift + size - 1}, "
            f"but the data has {len(space)} classes; use size + shift <= {len(space)}.",
            code="window-out-of-range",
        )
    return class_order(space, order).select(list(range(shift, shift + size)))


def fraction(space: LabelSpace, *, share: float, seed: int = 0) -> LabelSpace:
    """A random share of the classes, drawn by seed and kept in the space's own order.

    Raises:
        UserError: a share outside (0, 1], or one that leaves no class.
    """
    count = round(share * len(space))
    if not 0 < share <= 1 or count < 1:
        raise UserError(
            f"The fraction {share} of {len(space)} classes leaves none; use a share in (0, 1].",
            code="fraction-out-of-range",
        )
    chosen = np.random.default_rng(seed).permutation(len(space))[:count]
    return space.select(sorted(int(column) for column in chosen))
