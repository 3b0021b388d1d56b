"""Small things that several test modules share: learnable images, image files, a tiny teacher, a problem, a batch.

Helpers are fixtures that return functions, so that no test module has to import another.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gkd.core import plugins
from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import ImageSet
from gkd.distill.teacher import Teacher
from gkd.models import build_network
from gkd.problems.problem import Problem, Source
from gkd.problems.task import TASKS

MEAN, STD = (0.5,), (0.25,)
Files = dict[str, bytes]  # path with "/", ending in "/" for a folder -> content


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skipped test is a failure: what is not run is not proven."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped") and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests read and compute stays out of the cache of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GKD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def make_set() -> Callable[..., ImageSet]:
    """``make_set(names, num, seed=)``: grey 8×8 images, each class a pattern of its own under noise."""

    def make(names: Sequence[str], num: int, *, seed: int = 0) -> ImageSet:
        patterns = torch.randint(0, 160, (26, 1, 8, 8), generator=torch.Generator().manual_seed(99))
        labels = torch.arange(num) % len(names)
        letter = torch.tensor([ord(name[0]) - ord("a") for name in names])
        noise = torch.randint(0, 96, (num, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
        pixels = (patterns[letter[labels]] + noise).to(torch.uint8)
        return ImageSet(pixels, labels, LabelSpace([*names]))

    return make


@pytest.fixture
def make_teacher() -> Callable[..., Teacher]:
    """``make_teacher(names, seed=, mean=, std=)``: a resnet8 with random weights over these classes."""

    def make(
        names: Sequence[str], *, seed: int = 7, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
    ) -> Teacher:
        torch.manual_seed(seed)
        network = build_network("resnet8", num_classes=len(names), in_channels=1)
        return Teacher(network, LabelSpace([*names]), mean=mean, std=std)

    return make


@pytest.fixture
def make_problem(make_set: Callable[..., ImageSet]) -> Callable[..., Problem]:
    """``make_problem(teacher_names, student_names, num=)``: images for both sides, one letter a class."""

    def make(teacher: Sequence[str], student: Sequence[str], *, num: int = 32) -> Problem:
        def source(names: Sequence[str]) -> Source:
            return Source(make_set(names, num), make_set(names, 16, seed=1), make_set(names, 2 * num, seed=2))

        relation = LabelRelation(LabelSpace([*teacher]), LabelSpace([*student]))
        return Problem("student", relation, source(teacher), source(student))

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """``make_batch(num_classes, size=, seed=)``: random images whose labels go round the classes."""

    def make(num_classes: int, *, size: int = 8, seed: int = 3) -> Batch:
        images = torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        return Batch(images, torch.arange(size) % num_classes, torch.arange(size), shared=True)

    return make


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
        return ImageSet(pixels, torch.arange(num) % classes, LabelSpace([*names]), files, name="random")

    return make


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``offer(group, (name, value), ...)``: entry points of a group, as if packages that have them were installed."""
    points: list[EntryPoint] = []

    def offered(group: str, *added: tuple[str, str]) -> None:
        points.extend(EntryPoint(name, value, group) for name, value in added)
        plugins.entry_point_table.cache_clear()
        if group == "gkd.tasks":
            for name, value in added:
                monkeypatch.setitem(TASKS, name, EntryPoint(name, value, group))

    def installed(group: str) -> list[EntryPoint]:
        return [*entry_points(group=group), *(point for point in points if point.group == group)]

    monkeypatch.setattr(plugins, "entry_points", installed)
    plugins.entry_point_table.cache_clear()
    yield offered
    plugins.entry_point_table.cache_clear()
