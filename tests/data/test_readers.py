"""Data sets by name: digits, torchvision's (on files made here), and unknown names."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from gkd.data import DATASETS, load_images
from gkd.errors import UserError


def test_digits_split() -> None:
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert (len(train), len(test)) == (1257, 540)
    assert train.images.shape == (1257, 1, 8, 8)
    assert train.space.names == test.space.names == tuple("0123456789")
    counts = torch.bincount(torch.as_tensor(load_digits().target))
    assert (test.class_counts() - 0.3005 * counts).abs().max() < 1
    # together they are all of the data, each image once
    both = torch.cat([train.images, test.images]).flatten(1)
    everything = torch.as_tensor(load_digits().images.reshape(-1, 64) * 255 / 16).round().to(torch.uint8)
    assert sorted(both.tolist()) == sorted(everything.tolist())
    assert int(both.max()) == 255


def test_digits_split_is_fixed() -> None:
    """A change of the split would change every published number on digits."""
    test = load_images("digits", "test")
    assert test.labels[:12].tolist() == [3, 9, 3, 4, 5, 6, 5, 9, 7, 0, 0, 2]
    assert test.fingerprint() == "204eb9eca1d80d89c4460697bd42db272baffe9f1a833307ba8755a3caaba7be"


def test_digits_in_other_shapes() -> None:
    small = load_images("digits", "test")
    assert load_images("digits", "test", channels=3).images.equal(small.images.expand(-1, 3, -1, -1))
    large = load_images("digits", "test", image_size=16)
    assert large.size == (16, 16)
    expected = Image.fromarray(small.images[0, 0].numpy()).resize((16, 16), Image.Resampling.BILINEAR)
    difference = large.images[0, 0].int() - torch.from_numpy(np.array(expected)).int()
    assert difference.abs().max() <= 1
    with pytest.raises(UserError, match="1 or 3 channels, not 2"):
        load_images("digits", "test", channels=2)


def test_unknown_names() -> None:
    with pytest.raises(UserError) as error:
        load_images("cifar-100", "train")
    assert "Did you mean 'cifar100'" in str(error.value)
    assert all(name in str(error.value) for name in DATASETS)
    with pytest.raises(UserError, match=r"Unknown split 'tests'\. Did you mean 'test'"):
        load_images("digits", "tests")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_missing_torchvision_data(name: str, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserError, match=rf"{name} is not, or not whole, in .*; set data\.download to true"):
        load_images(name, "train", root=tmp_path)
    with pytest.raises(UserError, match=str(cache / "datasets")):
        load_images(name, "test")


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_a_download_that_fails(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(UserError, match=f"{name} could not be downloaded to .*; check the network"):
        load_images(name, "train", root=tmp_path, download=True)


def test_fashion_mnist_from_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    for part in ("train", "t10k"):
        header = struct.pack(">iiii", 0x803, 20, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, 20) + labels.tobytes())
    images = load_images("fashion_mnist", "test", root=tmp_path)
    assert images.images.equal(torch.from_numpy(pixels)[:, None])
    assert images.labels.tolist() == labels.tolist()
    assert images.space.names[0] == "T-shirt/top"


def test_cifar_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision gives [N, H, W, C] and checks checksums, so its class is stood in for."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)

    class Stand:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            assert (root, train, download) == (str(tmp_path), True, False)
            self.data, self.targets, self.classes = pixels, [0, 1, 2, 1, 0], ["a", "b", "c"]

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", Stand)
    images = load_images("cifar100", "train", root=tmp_path)
    assert images.images.shape == (5, 3, 32, 32)
    assert images.images.is_contiguous()
    assert images.images.equal(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert images.labels.tolist() == [0, 1, 2, 1, 0]
    grey = load_images("cifar100", "train", root=tmp_path, channels=1)
    expected = np.stack([np.array(Image.fromarray(image).convert("L")) for image in pixels])
    assert grey.images[:, 0].numpy().tobytes() == expected.tobytes()
