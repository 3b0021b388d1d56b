"""``trainer(...)``: trains in a folder of its own, as a new process would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gkd.distill.teacher import Teacher
from gkd.problems.problem import Problem
from tests.training_helpers import Trainer


@pytest.fixture
def trainer(
    make_problem: Callable[..., Problem], make_teacher: Callable[..., Teacher], tmp_path: Path
) -> Callable[..., Trainer]:
    def make(name: str = "run", teacher: str = "abc", student: str = "bcd") -> Trainer:
        (tmp_path / name).mkdir()
        return Trainer(make_problem(teacher, student), make_teacher, tmp_path / name)

    return make
