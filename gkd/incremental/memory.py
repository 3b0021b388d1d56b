"""Exemplar memory: a few images of each class seen before, as sample numbers, never as copies.

A memory refers to one image set, that of all classes; a step trains on ``cat(numbers of its images, memory.samples)``.
Each class's exemplars stand in the order in which they were chosen, and every choice here is greedy: the first m of a
larger choice are the choice of m. So a memory that shrinks keeps the first of each class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gkd.core.errors import UserError, unknown
from gkd.core.short_repr import short_repr
from gkd.data.fewer_images import random_order
from gkd.data.images import ImageSet


def exemplars_per_class(
    num_classes: int, *, memory_total: int | None = None, memory_per_class: int | None = None
) -> int:
    """m, how many exemplars each of ``num_classes`` seen classes may have; 0 where neither budget is given.

    Args:
        num_classes: classes seen so far; the final number checks a total in advance.
        memory_total: K exemplars for all classes together: m = ⌊K / num_classes⌋, which falls as classes arrive.
        memory_per_class: m itself, the same after every step.

    Raises:
        UserError: both budgets, or one with less than an exemplar a class.
    """
    if memory_total is not None and memory_per_class is not None:
        raise UserError(
            f"A memory has a total or a number of exemplars per class, but memory_total {memory_total} and "
            f"memory_per_class {memory_per_class} were both given; leave one out.",
            code="budgets-not-together",
        )
    if memory_total is not None and memory_total < num_classes:
        raise UserError(
            f"A memory_total of {memory_total} is less than one exemplar for each of {num_classes} classes; use at "
            f"least {num_classes}, or leave it out for no memory.",
            code="memory-out-of-range",
        )
    if memory_per_class is not None and memory_per_class < 1:
        raise UserError(
            f"A memory_per_class of {memory_per_class} is less than one exemplar; use 1 or more, or leave it out for "
            "no memory.",
            code="memory-out-of-range",
        )
    return memory_total // num_classes if memory_total is not None else memory_per_class or 0


def check_selection(name: str) -> None:
    """Raise a UserError for a name that is not in ``SELECTIONS``."""
    if name not in SELECTIONS:
        raise UserError(
            unknown("selection of exemplars", name, SELECTIONS), code="unknown-selection-of-exemplars"
        )


@dataclass(frozen=True)
class Memory:
    """Exemplars of the classes seen so far.

    Attributes:
        exemplars: class name -> int64 ``[m_k]`` on the CPU, numbers of samples in the image set, the first chosen
            first; classes in the order of arrival. A class with fewer images than its share has them all.
    """

    exemplars: Mapping[str, Tensor]

    __repr__ = short_repr

    def __len__(self) -> int:
        return sum(map(len, self.exemplars.values()))

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.exemplars)

    @property
    def samples(self) -> Tensor:
        """Int64 ``[M]``: all exemplars, class by class."""
        return torch.cat([torch.empty(0, dtype=torch.int64), *self.exemplars.values()])

    def cut(self, per_class: int) -> Memory:
        """The first ``per_class`` exemplars of each class."""
        return Memory({name: samples[:per_class] for name, samples in self.exemplars.items()})

    def add(self, exemplars: Mapping[str, Tensor]) -> Memory:
        """The memory with the exemplars of further classes appended.

        Raises:
            ValueError: a class that is here already.
        """
        twice = self.exemplars.keys() & exemplars.keys()
        if twice:
            raise ValueError(f"the memory has exemplars of {sorted(twice)} already")
        return Memory({**self.exemplars, **exemplars})

    def as_lists(self) -> dict[str, list[int]]:
        """Class name -> sample numbers, for JSON; `memory_of_lists` reads it."""
        return {name: samples.tolist() for name, samples in self.exemplars.items()}


def memory_of_lists(lists: Mapping[str, Sequence[int]], images: ImageSet) -> Memory:
    """The memory that ``as_lists`` wrote, checked against the images that its numbers refer to.

    Raises:
        UserError: a sample that the images do not have, or that is of another class there.
    """
    labels = images.labels.cpu()
    exemplars = {}
    for name, numbers in lists.items():
        valid = name in images.space and all(
            type(number) is int and 0 <= number < len(labels) for number in numbers
        )
        samples = torch.tensor(list(numbers) if valid else [], dtype=torch.int64)
        if not valid or bool((labels[samples] != images.space.column(name)).any()):
            raise UserError(
                f"The memory's exemplars of the class {name!r} are not images of it in {images.name}; use the memory "
                "with the data that it was chosen from.",
                code="other-images",
            )
        exemplars[name] = samples
    return Memory(exemplars)


def samples_of(images: ImageSet, classes: Sequence[str]) -> Tensor:
    """Int64 ``[n]`` on the CPU: the numbers of all images of some classes, ascending."""
    columns = torch.tensor([images.space.column(name) for name in classes], dtype=torch.int64)
    return torch.nonzero(torch.isin(images.labels.cpu(), columns)).flatten()


SELECTIONS = ("herding", "closest", "random")


def choose_exemplars(
    images: ImageSet,
    classes: Sequence[str],
    count: int,
    *,
    selection: str = "herding",
    samples: Tensor | None = None,
    embedding: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """At most ``count`` exemplars of each class, for `Memory.add`.

    Args:
        images: the image set of all classes.
        classes: whose exemplars to choose, in the order of arrival.
        count: m; all images of a class with fewer.
        selection: ``"herding"`` (iCaRL), ``"closest"`` to the class's mean, or ``"random"`` by seed and class name,
            whichever other classes are present.
        samples: int64 ``[n]``, numbers of the images to choose among (see `samples_of`); None means all.
        embedding: ``[n, D]``, the embedding of each of them; ``"random"`` needs none.
        seed: of a random choice.

    Returns:
        Class name -> int64 ``[min(m, n_k)]`` on the CPU, numbers of samples in ``images``, the first chosen first.

    Raises:
        UserError: an unknown selection, a class without an image, or embeddings that are not finite.
        ValueError: a selection that needs embeddings without them, or not one for each sample.
    """
    check_selection(selection)
    samples = torch.arange(len(images)) if samples is None else samples.cpu()
    rows_of = torch.empty(0) if embedding is None else embedding
    if selection != "random" and len(rows_of) != len(samples):
        count_of = "none" if embedding is None else len(embedding)
        raise ValueError(f"{selection} needs an embedding of each of {len(samples)} samples; got {count_of}")
    labels = images.labels.cpu()[samples]
    # Rows by class, ascending within a class, so that no choice depends on which other classes are present.
    rows = torch.argsort(labels * len(images) + samples)
    by_class = rows.split(torch.bincount(labels, minlength=len(images.space)).tolist())
    chosen = {}
    for name in classes:
        of_class = by_class[images.space.column(name)]
        if len(of_class) == 0:
            raise UserError(
                f"The class {name!r} has no image in {images.name} to choose an exemplar from.",
                code="class-without-images",
            )
        if selection == "random":
            order = random_order(name, len(of_class), seed=seed)[:count]
        else:
            features = rows_of[of_class.to(rows_of.device)]
            order = (herding if selection == "herding" else closest_to_mean)(features, count)
        chosen[name] = samples[of_class[order]]
    return chosen


def herding(embedding: Tensor, count: int) -> Tensor:
    """The exemplars of one class whose running mean stays closest to the class's.

    With unit-length embeddings v_i and their mean μ (not normalised), the k-th pick, without replacement, is
    ``argmin_i ‖ μ − (S + v_i)/k ‖``, S the sum of those picked before. Since ``‖v_i‖ = 1`` that is
    ``argmax_i v_i·(kμ − S)``, whose change from pick to pick is one product of a matrix and a vector: O(n·D) a pick.

    Class by class in NumPy, whose calls cost less than torch's; products over many classes at once were slower.

    Args:
        embedding: ``[n, D]`` of one class, not normalised.
        count: m.

    Returns:
        Int64 ``[min(m, n)]`` on the CPU: rows, in the order of the picks; the first of equal ones.

    Source:
        Rebuffi et al.: iCaRL, CVPR 2017, algorithm 4.
    """
    unit, half_square = _unit_rows(embedding)
    mean = _mean(unit)
    # v_i·(kμ − S) − ½ ‖v_i‖²; the last part tells zero rows, for which ‖v_i‖ is not 1, from the others.
    scores, picks = unit @ mean - half_square, []
    change = np.empty_like(scores)
    for _ in range(min(count, len(unit))):
        pick = int(scores.argmax())
        picks.append(pick)
        scores += np.dot(unit, mean - unit[pick], out=change)
        scores[pick] = -np.inf
    return torch.tensor(picks, dtype=torch.int64)


def closest_to_mean(embedding: Tensor, count: int) -> Tensor:
    """The exemplars of one class closest to its mean, of unit-length embeddings: ``‖v_i − μ‖`` ascending.

    Arguments and result are those of `herding`.
    """
    unit, half_square = _unit_rows(embedding)
    distances = half_square - unit @ _mean(unit)  # ½ (‖v_i − μ‖² − ‖μ‖²)
    return torch.from_numpy(np.argsort(distances, kind="stable")[:count])


def _unit_rows(embedding: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows at unit length, zero rows left as they are, and half of each row's squared length; float32 or float64."""
    embedding = embedding.detach().cpu()
    rows = (embedding if embedding.dtype == torch.float64 else embedding.float()).numpy()
    squares = np.einsum("nd,nd->n", rows, rows)
    if not np.isfinite(squares).all():
        raise UserError(
            "The embeddings to choose exemplars by are not finite; the network that gave them has diverged, so train "
            "it with a smaller learning rate.",
            code="embedding-not-finite",
        )
    some = squares > 0
    unit: np.ndarray = rows / np.sqrt(np.where(some, squares, 1))[:, None]
    return unit, np.where(some, 0.5, 0.0).astype(unit.dtype)


def _mean(rows: np.ndarray) -> np.ndarray:
    """The mean of the rows, as a product: several times as fast as ``rows.mean(0)`` for few rows."""
    return np.full(len(rows), 1 / len(rows), rows.dtype) @ rows
