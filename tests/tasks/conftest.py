"""What the tests of tasks share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gkd.data import ImageSet
from gkd.problems.problem import Source


@pytest.fixture
def source(make_set: Callable[..., ImageSet]) -> Source:
    """Six classes in all three parts."""
    return Source(make_set("abcdef", 24), make_set("abcdef", 12, seed=1), make_set("abcdef", 12, seed=2))
