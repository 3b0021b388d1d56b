"""Images that stay on disk: decoded when a batch asks for them, by worker processes, never all in memory."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gkd.core.errors import UserError
from gkd.core.short_repr import short_repr
from gkd.data.decoding import Form, open_image
from gkd.data.image_files import Source, open_source
from gkd.data.image_operations import image_operations

_PREFETCHED = 4  # batches that each worker keeps ready


class Boxes(Protocol):
    """The box to read of each image: from sizes int64 ``[B, 2]`` and sample numbers ``[B]`` to int64 ``[B, 4]``."""

    def __call__(self, sizes: Tensor, index: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class StreamedPixels:
    """The pixels of an image set that does not fit into memory, in place of the tensor of an ``ImageSet``.

    Attributes:
        root: the directory or zip.
        files: N paths inside it.
        form: channels and size of the decoded images; the channels are 1 or 3.
        size: height and width of the decoded images; without a size in ``form``, images of others are refused.
        workers: processes that decode; 0 decodes in this one.
        stamp: identifies the files' content, for fingerprints.
    """

    root: Path
    files: tuple[str, ...]
    form: Form
    size: tuple[int, int]
    workers: int
    stamp: str

    __repr__ = short_repr

    @property
    def shape(self) -> torch.Size:
        """``[N, C, H, W]``, as of a tensor in its place."""
        return torch.Size((len(self.files), self.form.channels or 3, *self.size))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Tensor) -> StreamedPixels:
        """The images at int64 ``index``, still on disk."""
        return replace(self, files=tuple(self.files[i] for i in index.tolist()))

    def read(self, index: Tensor, boxes: Boxes | None = None) -> Tensor:
        """uint8 ``[B, C, H, W]`` on the CPU of the images at ``index``, decoded in this process.

        Args:
            index: int64 ``[B]``.
            boxes: which box of each image to read; None reads whole images.

        Raises:
            UserError: a file that cannot be decoded, named.
        """
        v2, index = image_operations(), index.cpu()
        source = _source(self.root)
        whole = [self._open(source, self.files[i]) for i in index.tolist()]
        if boxes is None:
            cut = [self.form.sized(image) for image in whole]
        else:
            sizes = torch.tensor([(image.height, image.width) for image in whole])
            interpolation = v2.InterpolationMode(self.form.interpolation)
            image_boxes = boxes(sizes.reshape(-1, 2), index).tolist()
            cut = [
                v2.resized_crop(image, *box, list(self.size), interpolation=interpolation)
                for image, box in zip(whole, image_boxes, strict=True)
            ]
        result = torch.empty((len(cut), *self.shape[1:]), dtype=torch.uint8)
        for row, image in zip(result, cut, strict=True):
            row.copy_(v2.pil_to_tensor(image))
        return result

    def _open(self, source: Source, path: str) -> Image.Image:
        image = open_image(source, path, self.form)
        if self.form.image_size is None and (image.height, image.width) != self.size:
            raise UserError(
                f"The image '{path}' in {source.label} is {image.height}×{image.width} (height×width) where the "
                f"first one is {self.size[0]}×{self.size[1]}; make them one size or set data.image_size.",
                code="mixed-image-sizes",
            )
        return image

    def stream(self, chunks: Sequence[Tensor], boxes: Boxes | None = None) -> Iterator[Tensor]:
        """Yield :meth:`StreamedPixels.read` of each index, read ahead by the workers."""
        chunks = [chunk.cpu() for chunk in chunks]
        if self.workers == 0 or len(chunks) < 2:
            yield from (self.read(chunk, boxes) for chunk in chunks)
            return
        workers = min(self.workers, len(chunks))
        # Forked workers share the imported modules and a zip's directory.
        image_operations()
        _source(self.root)
        loader = DataLoader(
            _Chunks(self, chunks, boxes),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=_PREFETCHED,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # a loader draws a seed when it starts, and not from the run's generator
        )
        try:
            for pixels in loader:
                if isinstance(pixels, UserError):
                    raise pixels
                yield pixels
        except RuntimeError as error:  # torch has no narrower exception for a process that died
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"A process that decodes the images of {self.root} was ended from outside, which a lack of memory "
                f"or of shared memory (/dev/shm) does; use fewer than data.workers={self.workers}.",
                code="worker-killed",
            ) from error


class _Chunks(Dataset[Tensor | UserError]):
    """Item i is a whole batch; a UserError is returned, because a loader adds its traceback to a raised one."""

    def __init__(self, pixels: StreamedPixels, chunks: Sequence[Tensor], boxes: Boxes | None) -> None:
        self.pixels, self.chunks, self.boxes = pixels, chunks, boxes

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> Tensor | UserError:
        try:
            return self.pixels.read(self.chunks[number], self.boxes)
        except UserError as error:
            return error


def _start_worker(number: int) -> None:
    """Ignore Ctrl-C in a worker: the main process handles it and ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _source(root: Path) -> Source:
    """The source at ``root``, opened once for as long as it is the same file."""
    status = root.stat()
    return _opened(root, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _opened(root: Path, _changed: int, _size: int) -> Source:
    return open_source(root)
