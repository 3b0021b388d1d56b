"""Training episodes: their size, the check that a set has enough images, and the draw for an epoch."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gkd.core.errors import UserError
from gkd.data.addressed_random import PURPOSE_EPISODES, key_of
from gkd.data.episodes import Episodes, draw_episodes
from gkd.data.images import ImageSet


class EpisodePlan(BaseModel):
    """The size and number of the episodes that a stage trains on as batches.

    Attributes:
        ways: N, the classes of an episode.
        shots: K, the support images of each of them.
        queries: Q, the images of each that are classified.
        per_epoch: episodes an epoch; None: so many that they hold about as many images as the set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ways: int = Field(default=5, ge=2)
    shots: int = Field(default=5, ge=1)
    queries: int = Field(default=15, ge=1)
    per_epoch: int | None = Field(default=None, ge=1)

    @property
    def size(self) -> int:
        """The images of an episode, which is one batch: N (K + Q)."""
        return self.ways * (self.shots + self.queries)

    def count(self, num_images: int) -> int:
        """The number of episodes in an epoch over a set of ``num_images``."""
        return self.per_epoch or max(round(num_images / self.size), 1)

    @property
    def way(self) -> Tensor:
        """int64 ``[N (K + Q)]``: the class of each row, as its number in the episode."""
        return torch.arange(self.ways).repeat_interleave(self.shots + self.queries)

    @property
    def support(self) -> Tensor:
        """Bool ``[N (K + Q)]``: True for the first K rows of each class; the others are queries."""
        return (torch.arange(self.shots + self.queries) < self.shots).repeat(self.ways)


def check_episodes(images: ImageSet, plan: EpisodePlan) -> Tensor:
    """Check that episodes can be drawn; returns the columns of classes with images, int64 ``[C']`` on the CPU.

    Raises:
        UserError: too few classes for the ways, or a class with too few images for its shots and queries.
    """
    counts = images.class_counts()
    present = torch.nonzero(counts).flatten()
    if plan.ways > len(present):
        raise UserError(
            f"{plan.ways}-way episodes need as many classes, but {images.name} has {len(present)}; use fewer ways in "
            f"the method's stage, as in method.stages.STAGE.episodes.ways={len(present)}.",
            code="too-few-classes",
        )
    needed = plan.shots + plan.queries
    for column in present.tolist():
        if counts[column] < needed:
            raise UserError(
                f"Episodes of {plan.shots} shots and {plan.queries} queries take {needed} images of a class, but the "
                f"class {images.space.names[column]!r} of {images.name} has {int(counts[column])}; use fewer "
                "(episodes.shots and episodes.queries of the method's stage).",
                code="too-few-images",
            )
    return present


def episodes_of_epoch(
    labels: Tensor, classes: Tensor, plan: EpisodePlan, *, seed: int, stage: int, epoch: int
) -> Episodes:
    """The episodes of an epoch, a pure function of seed, stage and epoch.

    Args:
        labels: int64 ``[n]`` on the CPU, the set's labels by sample number.
        classes: int64 ``[C']``, the columns of classes with images, from ``check_episodes``.
        plan: their size and number.
        seed, stage, epoch: of the draw.
    """
    drawn = draw_episodes(
        torch.searchsorted(classes, labels),  # classes without an image are never drawn
        count=plan.count(len(labels)),
        ways=plan.ways,
        shots=plan.shots,
        queries=plan.queries,
        seed=key_of(PURPOSE_EPISODES, seed, stage, epoch),
    )
    return Episodes(drawn.index, classes[drawn.classes], drawn.shots)
