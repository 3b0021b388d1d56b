"""Small data sets, made on the spot: class-folder trees, the same files as a zip, random image sets.

Helpers are fixtures that return functions, so that no test module has to import another.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gkd.data.images import ImageSet
from gkd.labels import LabelSpace

Files = dict[str, bytes]  # path with "/", ending in "/" for a folder -> content


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has an empty cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GKD_CACHE", str(folder))
    return folder


def _encoded(seed: int, *, size: tuple[int, int] = (8, 8), mode: str = "RGB", kind: str = "png") -> bytes:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """``encoded(seed, size=(height, width), mode=, kind=)``: a random image as the bytes of a file."""
    return _encoded


@pytest.fixture
def make_files() -> Callable[..., Files]:
    """``make_files(train=[classes], test=[classes], …)``: three images of each class."""

    def make(*, size: tuple[int, int] = (8, 8), mode: str = "RGB", **splits: list[str]) -> Files:
        files: Files = {}
        for split, names in splits.items():
            for name in names:
                for number in (2, 0, 1):  # not in order: sorting is the reader's business
                    files[f"{split}/{name}/{number:02}.png"] = _encoded(len(files), size=size, mode=mode)
        return files

    return make


@pytest.fixture
def two_classes(make_files: Callable[..., Files]) -> Files:
    return make_files(train=["cat", "ant"], test=["ant", "cat"])


@pytest.fixture
def write_tree(tmp_path: Path) -> Callable[[Files], Path]:
    def write(files: Files) -> Path:
        root = tmp_path / "animals"
        root.mkdir(exist_ok=True)
        for path, content in files.items():
            if path.endswith("/"):
                (root / path).mkdir(parents=True, exist_ok=True)
            else:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(content)
        return root

    return write


@pytest.fixture
def write_zip(tmp_path: Path) -> Callable[[Files], Path]:
    def write(files: Files) -> Path:
        path = tmp_path / "animals.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path

    return write


@pytest.fixture
def make_images() -> Callable[..., ImageSet]:
    """Random pixels; the labels go round the classes c0, c1, …"""

    def make(num: int = 40, classes: int = 4, *, size: int = 8, channels: int = 3, seed: int = 0) -> ImageSet:
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(0, 256, (num, channels, size, size), dtype=torch.uint8, generator=generator)
        names = [f"c{column}" for column in range(classes)]
        files = tuple(f"{names[i % classes]}/{i:04}.png" for i in range(num))
        return ImageSet(pixels, torch.arange(num) % classes, LabelSpace(names), files, name="random")

    return make
