"""Small things that several test modules share: learnable images, a tiny teacher, a problem, a batch.

Helpers are fixtures that return functions, so that no test module has to import another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import pytest
import torch

from gkd.data import ImageSet
from gkd.features import Batch
from gkd.labels import LabelRelation, LabelSpace
from gkd.models import build_network
from gkd.task import Problem, Source
from gkd.teacher import Teacher

MEAN, STD = (0.5,), (0.25,)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI a skipped test is a failure: what is not run is not proven."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped") and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def make_set() -> Callable[..., ImageSet]:
    """``make_set(names, num, seed=)``: grey 8×8 images, each class a pattern of its own under noise."""

    def make(names: Sequence[str], num: int, *, seed: int = 0) -> ImageSet:
        patterns = torch.randint(0, 160, (26, 1, 8, 8), generator=torch.Generator().manual_seed(99))
        labels = torch.arange(num) % len(names)
        letter = torch.tensor([ord(name[0]) - ord("a") for name in names])
        noise = torch.randint(0, 96, (num, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
        pixels = (patterns[letter[labels]] + noise).to(torch.uint8)
        return ImageSet(pixels, labels, LabelSpace(names))

    return make


@pytest.fixture
def make_teacher() -> Callable[..., Teacher]:
    """``make_teacher(names, seed=, mean=, std=)``: a resnet8 with random weights over these classes."""

    def make(
        names: Sequence[str], *, seed: int = 7, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
    ) -> Teacher:
        torch.manual_seed(seed)
        network = build_network("resnet8", num_classes=len(names), in_channels=1)
        return Teacher(network, LabelSpace(names), mean=mean, std=std)

    return make


@pytest.fixture
def make_problem(make_set: Callable[..., ImageSet]) -> Callable[..., Problem]:
    """``make_problem(teacher_names, student_names, num=)``: images for both sides, one letter a class."""

    def make(teacher: Sequence[str], student: Sequence[str], *, num: int = 32) -> Problem:
        def source(names: Sequence[str]) -> Source:
            return Source(make_set(names, num), make_set(names, 16, seed=1), make_set(names, 2 * num, seed=2))

        relation = LabelRelation(LabelSpace(teacher), LabelSpace(student))
        return Problem("student", relation, source(teacher), source(student))

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """``make_batch(num_classes, size=, seed=)``: random images whose labels go round the classes."""

    def make(num_classes: int, *, size: int = 8, seed: int = 3) -> Batch:
        images = torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        return Batch(images, torch.arange(size) % num_classes, torch.arange(size))

    return make
