"""Episodes as batches of images, in the form that easyfsl's loaders give."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gkd.data.episodes import Episodes
from gkd.data.images import ImageSet, Pixels

Episode = tuple[Tensor, Tensor, Tensor, Tensor, list[int]]


def unit_range(images: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1], as ``ToTensor`` gives them."""
    return images.float() / 255


def episode_batches(
    images: ImageSet, episodes: Episodes, *, transform: Callable[[Tensor], Tensor] = unit_range
) -> Iterator[Episode]:
    """One episode after the other, as easyfsl's ``TaskSampler`` and its collate function give them.

    A classifier of easyfsl takes the first two with ``process_support_set`` and is called on the third. Samples of a
    class stand together, classes in the order of ``episodes.classes``: label l is class ``true_class_ids[l]``.

    Args:
        images: the set that the episodes number.
        transform: of uint8 pixels ``[M, C, H, W]``, such as normalisation; called on support, then on query.

    Yields:
        ``(support_images [N·K, ...], support_labels [N·K], query_images [N·Q, ...], query_labels [N·Q],
        true_class_ids)``: labels int64 0 to N − 1 on the images' device, and the N columns of ``images.space``.
    """
    device = images.labels.device
    labels = torch.arange(episodes.ways, device=device)
    support_labels = labels.repeat_interleave(episodes.shots)
    query_labels = labels.repeat_interleave(episodes.queries)
    for support, query, classes in zip(episodes.support, episodes.query, episodes.classes, strict=True):
        support_images, query_images = (
            transform(_read(images.images, index.flatten(), device)) for index in (support, query)
        )
        yield support_images, support_labels, query_images, query_labels, classes.tolist()


def _read(pixels: Pixels, index: Tensor, device: torch.device) -> Tensor:
    return pixels[index.to(device)] if isinstance(pixels, Tensor) else pixels.read(index).to(device)
