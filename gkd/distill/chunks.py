"""How many images fit into the memory of one pass without gradient."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gkd.core.memory import available_memory
from gkd.core.network import Features

_SHARE = 0.8  # of the free memory, for what operations take beside their results
_MOST_GROWTH = 1000  # no known network's activations take more than so many times the memory of its images


class Chunks:
    """The number of images of a pass, found once for each shape of images, from the memory that is free then.

    A batch that fits is one pass, as if there were no chunks.
    """

    def __init__(self) -> None:
        self._fitting: dict[tuple[Any, ...], int] = {}
        self._measured: set[tuple[Any, ...]] = set()

    def split(self, images: Tensor, run: Callable[[Tensor], object]) -> Sequence[Tensor]:
        """The images ``[B, C, H, W]`` in parts that fit, in their order; one part where all do.

        Args:
            images: of a batch.
            run: the pass, tried on one image where it is not known to fit.
        """
        if torch.compiler.is_compiling() or len(images) < 2:
            return (images,)
        key = (images.shape[1:], images.dtype, images.device)
        if len(images) > self._fitting.get(key, 0) and key not in self._measured:
            free = free_memory(images.device)
            if free is None:
                return (images,)
            fitting = free // (_MOST_GROWTH * images[0].numel() * images.element_size())
            if len(images) > fitting:
                fitting = max(int(_SHARE * free / max(peak_bytes(lambda: run(images[:1])), 1)), 1)
                self._measured.add(key)
            self._fitting[key] = fitting
        fitting = self._fitting[key]
        return (images,) if len(images) <= fitting else images.split(fitting)


def free_memory(device: torch.device) -> int | None:
    """Bytes that tensors can still take on a device; None where nobody says it."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return available_memory() if device.type == "cpu" else None


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes that the tensors which a function makes take at one time, its result among them."""
    peak = _Peak()
    with torch.no_grad(), peak:
        run()
    return peak.most


class _Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that operations return, for as long as they live; views count once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self._holders: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage.data_ptr() in self._holders or storage.data_ptr() not in given:
                    self._hold(leaf, storage.data_ptr(), storage.nbytes())
        self.most = max(self.most, self.bytes)
        return result

    def _hold(self, tensor: Tensor, place: int, size: int) -> None:
        self.bytes += 0 if self._holders[place] else size
        self._holders[place] += 1
        weakref.finalize(tensor, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        self._holders[place] -= 1
        if not self._holders[place]:
            del self._holders[place]
            self.bytes -= size


def joined(parts: Sequence[Features]) -> Features:
    """The outputs on the parts of a batch as those on the whole; a map that was left out stays empty."""
    if len(parts) == 1:
        return parts[0]

    def together(maps: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return tuple(
            torch.cat(values) if values[0].dim() > 1 else values[0] for values in zip(*maps, strict=True)
        )

    maps = together([part.maps for part in parts])
    pooled = [part.pooled_map for part in parts if part.pooled_map is not None]
    is_last = all(part.maps and part.pooled_map is part.maps[-1] for part in parts)
    return Features(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.embedding for part in parts]),
        maps,
        together([part.preact_maps for part in parts]),
        maps[-1] if is_last else torch.cat(pooled) if len(pooled) == len(parts) else None,
    )
