"""Episodes: N-way K-shot tasks as one tensor of sample numbers, drawn by a separate generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from gkd.core.errors import UserError
from gkd.core.memory import check_memory
from gkd.core.short_repr import short_repr
from gkd.storage.weights import save_weights


@dataclass(frozen=True)
class Episodes:
    """E episodes over one image set: every model that is judged on them sees the same samples.

    Attributes:
        index: int64 ``[E, N, K + Q]``, numbers of samples in the set: of each class K support samples, then Q
            queries. No sample stands twice in an episode.
        classes: int64 ``[E, N]``, the classes of each episode, as columns of the set's label space.
        shots: K.
    """

    index: Tensor
    classes: Tensor
    shots: int

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.index)

    @property
    def ways(self) -> int:
        return self.index.shape[1]

    @property
    def queries(self) -> int:
        return self.index.shape[2] - self.shots

    @property
    def support(self) -> Tensor:
        """``[E, N, K]``."""
        return self.index[:, :, : self.shots]

    @property
    def query(self) -> Tensor:
        """``[E, N, Q]``."""
        return self.index[:, :, self.shots :]

    def with_shots(self, shots: int) -> Episodes:
        """The same episodes with the first ``shots`` of each class's support: classes and queries stay.

        Raises:
            UserError: more shots than were drawn, or none.
        """
        if not 1 <= shots <= self.shots:
            raise UserError(
                f"The episodes were drawn with {self.shots} shots a class; {shots} cannot be taken of them.",
                code="shots-out-of-range",
            )
        index = torch.cat([self.index[:, :, :shots], self.query], dim=2)
        return Episodes(index, self.classes, shots)

    def save(self, path: Path) -> None:
        """Write the episodes as safetensors."""
        save_weights(path, {"index": self.index, "classes": self.classes}, {"shots": str(self.shots)})


def load_episodes(path: Path) -> Episodes:
    """Load a file that ``Episodes.save`` wrote.

    Raises:
        UserError: no such file, or one that holds no episodes.
    """
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            shots = int((file.metadata() or {})["shots"])
        return Episodes(tensors["index"], tensors["classes"], shots)
    except UserError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"The file {path} holds no episodes of gkd: {error}.", code="episodes-unreadable"
        ) from None


_TENSORS = 6  # of the size of the draw that are in memory at once


def draw_episodes(
    labels: Tensor,
    *,
    count: int,
    ways: int,
    shots: int,
    queries: int,
    seed: int,
    classes: Sequence[str] | None = None,
) -> Episodes:
    """Draw episodes: classes uniformly without replacement, then samples of each without replacement.

    A pure function of its arguments, on every machine: its own generator draws float64 numbers on the CPU, and all
    that follows is exact. The first n episodes of a longer draw are not those of a shorter one.

    Args:
        labels: int64 ``[n]``, the set's labels by sample number.
        count: E, how many episodes.
        ways, shots, queries: N, K and Q of the standard protocol; Q queries of each class.
        seed: of the draw.
        classes: the names of the columns, for messages; None counts columns up to the largest label.

    Raises:
        UserError: more ways than classes, one way, or classes with fewer than K + Q samples; each is named. More
            episodes than the memory holds.
    """
    labels = labels.cpu()
    names = range(int(labels.max()) + 1 if len(labels) else 0) if classes is None else classes
    total = len(names)
    sizes = torch.bincount(labels, minlength=total)
    _check(sizes, names, count=count, ways=ways, shots=shots, queries=queries)
    check_memory(
        _TENSORS * 8 * count * ways * (1 + shots + queries),
        f"To draw {count:,} episodes of {ways} ways with {shots} shots and {queries} queries",
        "draw fewer",
    )
    generator = torch.Generator().manual_seed(seed)
    chosen = _distinct(torch.full((count, 1), total), ways, generator).squeeze(1)
    # Samples by class, so that the number of a sample within its class leads to its number in the set.
    by_class = torch.sort(labels, stable=True).indices
    first = sizes.cumsum(0) - sizes
    within = _distinct(sizes[chosen], shots + queries, generator)
    return Episodes(by_class[first[chosen].unsqueeze(2) + within], chosen, shots)


def _check(
    sizes: Tensor, names: Sequence[str | int], *, count: int, ways: int, shots: int, queries: int
) -> None:
    if min(count, shots, queries) < 1 or ways < 2:
        raise UserError(
            f"Episodes need at least 2 ways and 1 episode, shot and query; {count} episodes of {ways} ways, "
            f"{shots} shots and {queries} queries were asked for.",
            code="episodes-out-of-range",
        )
    if ways > len(sizes):
        raise UserError(
            f"{ways}-way episodes need as many classes, but the images have {len(sizes)}; use fewer ways.",
            code="too-few-classes",
        )
    small = [
        f"{name} ({size})" for name, size in zip(names, sizes.tolist(), strict=True) if size < shots + queries
    ]
    if small:
        shown = ", ".join(small[:10]) + (", ..." if len(small) > 10 else "")
        raise UserError(
            f"{shots} shots and {queries} queries need {shots + queries} images of every class, but these have "
            f"fewer: {shown}; use fewer shots or queries, or leave the classes out.",
            code="too-few-images",
        )


def _distinct(sizes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``[..., count]`` different numbers below ``sizes [...]``, in the order of the draw.

    The j-th is uniform among those that are left: a number below size - j, moved past those that were taken.
    """
    drawn = torch.rand((*sizes.shape, count), generator=generator, dtype=torch.float64)
    taken: list[Tensor] = []  # the numbers drawn so far, ascending
    result = []
    for number in range(count):
        value = (drawn[..., number] * (sizes - number)).long()
        for other in taken:
            value = value + (value >= other)
        result.append(value)
        rest, ascending = value, []
        for other in taken:
            ascending.append(torch.minimum(rest, other))
            rest = torch.maximum(rest, other)
        taken = [*ascending, rest]
    return torch.stack(result, -1)
