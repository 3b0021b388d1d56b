"""The data sets of the paper configs in their published layouts, with a few tiny random images of each class."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from gkd.core.class_orders import class_split
from gkd.models.pretrained import label_set


def write_cifar(
    dataset: type[CIFAR10], folder: Path, monkeypatch: pytest.MonkeyPatch, *, train: int = 2
) -> None:
    """A set's files with a few training images and one test image of each class, and torchvision's word for them."""
    folder = folder / dataset.base_folder
    folder.mkdir(parents=True)
    classes, kind = (100, "fine_label") if issubclass(dataset, CIFAR100) else (10, "label")
    # The names of CIFAR-100 are those of the class splits.
    names = [name for part in class_split("cifar_fs").values() for name in part]
    names = sorted(names) if classes == 100 else [f"class {label}" for label in range(classes)]
    generator = np.random.default_rng(0)

    def written(name: str, content: dict[str, object]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for name, lines, each in (("train", "train_list", train), ("test", "test_list", 1)):
        labels = [label for label in range(classes) for _ in range(each)]
        pixels = generator.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        md5 = written(name, {"data": pixels, "fine_labels" if classes == 100 else "labels": labels})
        monkeypatch.setattr(dataset, lines, [[name, md5]])
    key = f"{kind}_names"
    md5 = written("meta", {key: names})
    monkeypatch.setattr(dataset, "meta", {"filename": "meta", "key": key, "md5": md5})


def _writer(root: Path, side: int) -> Callable[[str], None]:
    """Writes a random image of this side at a path below the root; a few images are enough for all files."""
    generator = np.random.default_rng(0)
    contents = []
    for _ in range(16):
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "jpeg")
        contents.append(buffer.getvalue())
    count = iter(range(10**9))

    def write(path: str) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(contents[next(count) % 16])

    return write


def _text(path: Path, rows: Iterable[str]) -> None:
    path.write_text("".join(f"{row}\n" for row in rows))


def write_cub200(root: Path, *, classes: int = 200, train: int = 3) -> None:
    """CUB-200-2011 with a few training images and one test image of each class."""
    write = _writer(root, 16)
    names = [f"{number:03}.Bird_{number}" for number in range(1, classes + 1)]
    rows = [(name, place) for name in names for place in range(train + 1)]
    for name, place in rows:
        write(f"images/{name}/{name}_{place}.jpg")
    _text(root / "classes.txt", (f"{number} {name}" for number, name in enumerate(names, 1)))
    _text(root / "images.txt", (f"{n} {name}/{name}_{place}.jpg" for n, (name, place) in enumerate(rows, 1)))
    _text(root / "image_class_labels.txt", (f"{n} {int(name[:3])}" for n, (name, _) in enumerate(rows, 1)))
    _text(
        root / "train_test_split.txt", (f"{n} {int(place < train)}" for n, (_, place) in enumerate(rows, 1))
    )


def write_cinic10(root: Path) -> None:
    """CINIC-10 with four images of each class in each split."""
    write = _writer(root, 32)
    for split in ("train", "valid", "test"):
        for label in range(10):
            for place in range(4):
                write(f"{split}/class_{label}/{place}.png")


def write_tiny_imagenet(root: Path, *, classes: int = 200) -> None:
    """Tiny-ImageNet with two training images and one labelled validation image of each class."""
    write = _writer(root, 64)
    names = [f"n{number:08}" for number in range(classes)]
    for name in names:
        for place in range(2):
            write(f"train/{name}/images/{name}_{place}.JPEG")
    for number in range(classes):
        write(f"val/images/val_{number}.JPEG")
    _text(root / "wnids.txt", names)
    _text(
        root / "val" / "val_annotations.txt",
        (f"val_{number}.JPEG\t{name}\t0\t0\t63\t63" for number, name in enumerate(names)),
    )


def write_imagenet(root: Path, *, classes: int = 1000) -> None:
    """ImageNet with two training images and one validation image of each class, by WordNet's ids."""
    write = _writer(root, 16)
    for name in label_set("imagenet-1k")[:classes]:
        for place in range(2):
            write(f"train/{name}/{name}_{place}.JPEG")
        write(f"val/{name}/ILSVRC2012_val_{name}.JPEG")


def write_mini_imagenet(root: Path, *, each: int = 40) -> None:
    """mini-ImageNet's 64, 16 and 20 classes with as many images each."""
    write = _writer(root, 16)
    for part, file in (("train", "train.csv"), ("validation", "val.csv"), ("test", "test.csv")):
        rows = [
            (f"{name}{place:04}.jpg", name)
            for name in class_split("mini_imagenet")[part]
            for place in range(each)
        ]
        for image, _ in rows:
            write(f"images/{image}")
        _text(root / file, ["filename,label", *(f"{image},{name}" for image, name in rows)])
