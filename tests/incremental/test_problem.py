"""A problem is an incremental step or is refused as one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gkd.incremental.problem import as_incremental
from gkd.problems.problem import Problem


def test_another_problem_is_no_step(make_problem: Callable[..., Problem]) -> None:
    with pytest.raises(TypeError, match="no incremental step"):
        as_incremental(make_problem("ab", "ab"))
