"""Judge an encoder on few-shot episodes, without config or task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from gkd.core.errors import UserError
from gkd.core.network import Network, in_eval_mode
from gkd.core.short_repr import short_repr
from gkd.data.episodes import Episodes
from gkd.few_shot.classifiers import episode_accuracies
from gkd.metrics.intervals import mean_interval


@dataclass(frozen=True)
class EpisodeResult:
    """The accuracy of one classifier on one encoder's embeddings.

    Attributes:
        mean: over the episodes, in percent.
        interval: half the width of its 95 % interval (Student's t over episodes), in percentage points.
        episodes: float64 ``[E]``, the accuracy of each episode in percent: to be paired with another encoder's.
    """

    mean: float
    interval: float
    episodes: Tensor

    __repr__ = short_repr

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.interval:.2f} %"


def evaluate_episodes(
    encoder: nn.Module | Callable[[Tensor], Tensor],
    images: Tensor | Iterable[Tensor | Sequence[Tensor]],
    episodes: Episodes,
    *,
    classifiers: Sequence[str] = ("nearest-mean",),
    batch_size: int = 512,
) -> dict[str, EpisodeResult]:
    """Embed every image once and let classifiers answer the queries of every episode.

    Args:
        encoder: maps images to embeddings ``[B, D]``; of a gkd network the embedding is taken, not the logits. A
            module runs in eval mode and is put back into the mode that it was in.
        images: all images that the episodes number, in that order and as the encoder takes them: ``[n, ...]``, or
            batches of them (a DataLoader that does not shuffle; of a tuple the first entry).
        episodes: drawn by ``draw_episodes`` over the images' labels.
        classifiers: keys of ``gkd.few_shot.classifiers.CLASSIFIERS``.
        batch_size: images a forward pass, where ``images`` is one tensor.

    Returns:
        Classifier -> its accuracy.

    Raises:
        UserError: a DataLoader that shuffles, embeddings that are no ``[B, D]``, fewer images than the episodes
            number, or an unknown classifier.
    """
    if isinstance(images, DataLoader) and isinstance(images.sampler, RandomSampler):
        raise UserError(
            "The DataLoader shuffles, but episodes number images in order; use shuffle=False.",
            code="shuffled-images",
        )
    embedding = _embed(encoder, images.split(batch_size) if isinstance(images, Tensor) else images)
    needed = int(episodes.index.max()) + 1
    if len(embedding) < needed:
        raise UserError(
            f"The episodes number {needed} images or more, but {len(embedding)} were given; give the images whose "
            "labels the episodes were drawn over.",
            code="too-few-images",
        )
    results = {}
    for name in classifiers:
        accuracies = episode_accuracies(embedding, episodes.support, episodes.query, name)
        results[name] = EpisodeResult(*mean_interval(accuracies), accuracies)
    return results


@torch.no_grad()
def _embed(
    encoder: nn.Module | Callable[[Tensor], Tensor], batches: Iterable[Tensor | Sequence[Tensor]]
) -> Tensor:
    """Embeddings of all batches, ``[n, D]`` in float32 on the CPU."""
    mode = in_eval_mode(encoder) if isinstance(encoder, nn.Module) else nullcontext()
    parameter = next(encoder.parameters(), None) if isinstance(encoder, nn.Module) else None
    rows = []
    with mode:
        for batch in batches:
            images = batch if isinstance(batch, Tensor) else batch[0]
            images = images if parameter is None else images.to(parameter.device)
            output = encoder.features(images).embedding if isinstance(encoder, Network) else encoder(images)
            if not isinstance(output, Tensor) or output.dim() != 2:
                shape = list(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
                raise UserError(
                    f"The encoder gives {shape}, but an embedding is [B, D]; pool or flatten it.",
                    code="not-an-embedding",
                )
            rows.append(output.float().cpu())
    if not rows:
        raise UserError("There is no image to embed.", code="no-images")
    return torch.cat(rows)
