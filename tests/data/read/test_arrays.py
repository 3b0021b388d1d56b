"""Digits and torchvision's data sets, on files written here in the formats that torchvision reads."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from gkd.core.errors import UserError
from gkd.data import load_images
from gkd.data.read.arrays import ARRAYS
from tests.refusals import refused


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
    with refused("channels-out-of-range"):
        load_images("digits", "test", channels=2)


@pytest.mark.parametrize("name", [name for name in ARRAYS if name != "digits"])
def test_missing_torchvision_data(name: str, tmp_path: Path, cache: Path) -> None:
    with refused("data-set-missing"):
        load_images(name, "train", root=tmp_path)
    with pytest.raises(UserError, match=str(cache / "datasets")):
        load_images(name, "test")


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_a_download_that_fails(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with refused("download-failed"):
        load_images(name, "train", root=tmp_path, download=True)


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


def idx_files(folder: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    """The four files of MNIST and Fashion-MNIST."""
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        header = struct.pack(">iiii", 0x803, *pixels.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = struct.pack(">ii", 0x801, len(labels))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


@pytest.mark.parametrize(
    ("name", "folder", "classes"),
    [("mnist", "MNIST", "0123456789"), ("fashion_mnist", "FashionMNIST", ["T-shirt/top", "Trouser"])],
)
def test_mnist_from_its_files(name: str, folder: str, classes: str | list[str], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    idx_files(tmp_path / folder / "raw", pixels, labels)
    for split in ("train", "test"):
        images = load_images(name, split, root=tmp_path)  # type: ignore[arg-type]
        assert images.images.equal(torch.from_numpy(pixels)[:, None])
        assert images.labels.tolist() == labels.tolist()
        assert images.space.names[: len(classes)] == tuple(classes)
    path = tmp_path / folder / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    with refused("data-set-missing"):
        load_images(name, "train", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "class_name", "key", "classes"),
    [("cifar10", "CIFAR10", "labels", 10), ("cifar100", "CIFAR100", "fine_labels", 100)],
)
def test_cifar_from_its_files(
    name: str, class_name: str, key: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = getattr(torchvision.datasets, class_name)
    folder = tmp_path / source.base_folder
    folder.mkdir()
    sums: dict[str, str] = {}

    def write(file: str, content: object) -> None:
        (folder / file).write_bytes(pickle.dumps(content))
        sums[file] = hashlib.md5((folder / file).read_bytes()).hexdigest()

    generator = np.random.default_rng(0)
    parts = [file for file, _ in (*source.train_list, *source.test_list)]
    data = {file: generator.integers(0, 256, (4, 3072), dtype=np.uint8) for file in parts}
    for file, rows in data.items():
        write(file, {"data": rows, key: [3, 1, 2, classes - 1]})
    names = [f"class {i}" for i in range(classes)]
    write(source.meta["filename"], {source.meta["key"]: names})
    for listed in ("train_list", "test_list"):
        monkeypatch.setattr(source, listed, [[file, sums[file]] for file, _ in getattr(source, listed)])
    monkeypatch.setattr(source, "meta", {**source.meta, "md5": sums[source.meta["filename"]]})
    for split, listed in (("train", source.train_list), ("test", source.test_list)):
        images = load_images(name, split, root=tmp_path)  # type: ignore[arg-type]
        expected = np.concatenate([data[file] for file, _ in listed]).reshape(-1, 3, 32, 32)
        assert images.images.equal(torch.from_numpy(expected))
        assert images.labels.tolist() == [3, 1, 2, classes - 1] * len(listed)
        assert images.space.names == tuple(names)
    (folder / parts[0]).write_bytes(b"cut short")
    with refused("data-set-missing"):
        load_images(name, "train", root=tmp_path)


def test_svhn_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    listed = dict(torchvision.datasets.SVHN.split_list)
    data = {split: generator.integers(0, 256, (32, 32, 3, 5), dtype=np.uint8) for split in ("train", "test")}
    for split, pixels in data.items():
        path = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": pixels, "y": np.array([[10], [1], [9], [5], [10]], dtype=np.uint8)})
        listed[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    for split, pixels in data.items():
        images = load_images("svhn", split, root=tmp_path)  # type: ignore[arg-type]
        assert images.images.equal(torch.from_numpy(pixels).permute(3, 2, 0, 1))
        assert images.labels.tolist() == [0, 1, 9, 5, 0]  # the file says 10 for the digit 0
        assert images.space.names == tuple("0123456789")
    monkeypatch.undo()
    with refused("data-set-missing"):
        load_images("svhn", "train", root=tmp_path)  # these are not torchvision's files


def test_omniglot_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Characters and drawings come in the order of their names, not of the disk."""
    folder = tmp_path / "omniglot-py"
    generator = np.random.default_rng(0)
    drawn: dict[str, dict[str, np.ndarray]] = {}
    for part, alphabets in (("images_background", ["Latin", "Greek"]), ("images_evaluation", ["Tengwar"])):
        drawn[part] = {}
        for alphabet in alphabets:
            for character in ("character02", "character01"):
                for file in ("b_2.png", "a_1.png"):
                    path = folder / part / alphabet / character / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pixels = generator.integers(0, 2, (105, 105)).astype(bool)
                    Image.fromarray(pixels).save(path)
                    drawn[part][f"{alphabet}/{character}/{file}"] = pixels
        (folder / f"{part}.zip").write_bytes(part.encode())
    sums = {part: hashlib.md5(part.encode()).hexdigest() for part in drawn}
    monkeypatch.setattr(torchvision.datasets.Omniglot, "zips_md5", sums)
    listdir = os.listdir
    monkeypatch.setattr("os.listdir", lambda path: sorted(listdir(path), reverse=True))
    train, test = (load_images("omniglot", split, root=tmp_path) for split in ("train", "test"))
    assert train.space.names == tuple(f"{a}/character0{n}" for a in ("Greek", "Latin") for n in (1, 2))
    assert test.space.names == ("Tengwar/character01", "Tengwar/character02")
    for images, part in ((train, "images_background"), (test, "images_evaluation")):
        assert images.files == tuple(sorted(drawn[part]))
        assert images.channels == 1
        for i, file in enumerate(images.files):
            assert images.space.names[images.labels[i]] == file.rpartition("/")[0]
            assert images.images[i, 0].numpy().tobytes() == (drawn[part][file] * np.uint8(255)).tobytes()
