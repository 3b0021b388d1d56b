"""Images streamed from disk: the same as in memory, from any number of workers, with errors as sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gkd.data.streamed_pixels
from gkd.data import Batches, ImageSet, Look, StreamedPixels, channel_statistics, load_images, ordered
from gkd.data.augment.resized_crop import random_boxes
from tests.refusals import refused

Write = Callable[..., Path]
LOOK = Look((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "crop-flip")


@pytest.fixture(params=["folder", "zip"])
def root(request: pytest.FixtureRequest, make_files: Callable, write_tree: Write, write_zip: Write) -> Path:
    files = make_files(size=(12, 12), train=["a", "b", "c", "d"], test=["a", "b", "c", "d"])
    return (write_tree if request.param == "folder" else write_zip)(files)


def streamed(root: Path, *, workers: int = 0, **options: object) -> ImageSet:
    images = load_images("folder", "train", root=root, memory_gb=0, workers=workers, **options)  # type: ignore[arg-type]
    assert images.streamed
    return images


def test_the_size_decides(root: Path) -> None:
    gigabytes = 24 * 3 * 12 * 12 / 2**30  # of both splits
    assert not load_images("folder", "train", root=root).streamed
    assert not load_images("folder", "train", root=root, memory_gb=gigabytes).streamed
    assert load_images("folder", "train", root=root, memory_gb=0.99 * gigabytes).streamed
    assert load_images("folder", "train", root=root, image_size=24, memory_gb=2 * gigabytes).streamed


def test_a_box_is_resized_by_the_filter_of_the_images(root: Path) -> None:
    images = streamed(root, image_size=24, interpolation="bicubic").images
    assert isinstance(images, StreamedPixels)
    found = images.read(torch.tensor([3]), lambda sizes, _index: torch.tensor([[0, 0, 12, 12]] * len(sizes)))
    assert found.equal(images.read(torch.tensor([3])))  # of the whole image


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_size": 8},
        {"channels": 1, "image_size": 16, "interpolation": "bicubic"},
        {"image_size": 8, "fit": "crop"},
    ],
)
def test_pixels_and_labels_are_those_in_memory(root: Path, workers: int, options: dict) -> None:
    memory, stream = (
        load_images("folder", "train", root=root, **options),
        streamed(root, workers=workers, **options),
    )
    assert stream.image_shape == memory.image_shape
    assert stream.labels.equal(memory.labels)
    assert (stream.files, stream.space) == (memory.files, memory.space)
    chunks = list(torch.tensor([5, 0, 11, 3, 3, 7]).split(2))
    assert isinstance(stream.images, StreamedPixels)
    assert torch.cat(list(stream.images.stream(chunks))).equal(memory.images[torch.cat(chunks)])
    index = torch.tensor([4, 9])
    assert isinstance(stream.select(index).images, StreamedPixels)
    assert stream.select(index).images.read(torch.tensor([1])).equal(memory.images[9:10])
    assert (
        stream.fingerprint() == streamed(root, **options).fingerprint() != stream.select(index).fingerprint()
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_in_memory_to_the_bit(root: Path, workers: int) -> None:
    memory, stream = load_images("folder", "train", root=root), streamed(root, workers=workers)
    look = replace(LOOK, augment="crop-flip+cutout+rand-augment")
    both = [Batches(images, look, batch_size=4, seed=3) for images in (memory, stream)]
    for epoch, start in ((0, 0), (1, 2)):
        batches = [list(each.epoch(epoch, start)) for each in both]
        assert len(batches[0]) == len(batches[1]) == 3 - start
        for a, b in zip(*batches, strict=True):
            assert a.index.equal(b.index)
            assert a.labels.equal(b.labels)
            assert a.images.equal(b.images)
    a, b = (
        torch.cat([batch.images for batch in ordered(images, LOOK, batch_size=5)])
        for images in (memory, stream)
    )
    assert a.equal(b)
    assert channel_statistics(stream) == channel_statistics(memory)


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_draws_nothing_from_the_global_generator(root: Path, workers: int) -> None:
    """Dropout and mixup draw from it: a resumed run must find it as it was saved."""
    batches = Batches(streamed(root, workers=workers), LOOK, batch_size=4, seed=0)
    before = torch.get_rng_state()
    assert len(list(batches.epoch(0))) == 3
    assert torch.get_rng_state().equal(before)


def test_a_worker_that_dies_is_a_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch says so; killing one for real would now and then leave its queue locked, or speak up too late."""

    def dies(*_: object, **__: object) -> Iterator[torch.Tensor]:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
        yield

    monkeypatch.setattr(gkd.data.streamed_pixels, "DataLoader", dies)
    epoch = Batches(streamed(root, workers=2), LOOK, batch_size=4, seed=0).epoch(0)
    with refused("worker-killed"):
        list(epoch)


def test_a_resized_crop_is_cut_out_of_the_whole_image(root: Path) -> None:
    """At a smaller size, the box is taken from the file's own pixels, not from shrunken ones."""
    look = Look((0.0,) * 3, (1.0,) * 3, "random-resized-crop-flip(min_area=0.3)")
    batches = Batches(streamed(root, workers=2, image_size=6), look, batch_size=12, seed=1)
    (batch,) = batches.epoch(0)
    address = {"seed": 1, "stage": 0, "epoch": 0, "view": 0}
    sizes = torch.full((12, 2), 12)
    boxes = random_boxes(sizes, batch.index, **address, min_area=0.3)
    whole = load_images("folder", "train", root=root)
    for image, index, (top, left, height, width) in zip(
        batch.images, batch.index, boxes.tolist(), strict=True
    ):
        pixels = whole.images[index, :, top : top + height, left : left + width].permute(1, 2, 0).numpy()
        cut = Image.fromarray(pixels).resize((6, 6), Image.Resampling.BILINEAR)
        expected = torch.from_numpy(np.array(cut)).permute(2, 0, 1) / 255
        assert image.equal(expected) or image.equal(expected.flip(2))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_read_is_named(make_files: Callable, write_tree: Write, workers: int) -> None:
    files = make_files(size=(12, 12), train=["a", "b"], test=["a", "b"])
    files["train/b/01.png"] = files["train/b/01.png"][:40]
    batches = Batches(streamed(write_tree(files), workers=workers), LOOK, batch_size=2, seed=0)
    with refused("image-unreadable"):
        list(batches.epoch(0))


def test_a_file_of_another_size_is_named(
    make_files: Callable, encoded: Callable[..., bytes], write_tree: Write
) -> None:
    files = make_files(size=(12, 12), train=["a", "b"], test=["a", "b"])
    files["train/b/01.png"] = encoded(0, size=(12, 13))
    root = write_tree(files)
    with refused("mixed-image-sizes"):
        list(ordered(streamed(root), LOOK, batch_size=2))
    assert len(list(ordered(streamed(root, image_size=12), LOOK, batch_size=2))) == 3
