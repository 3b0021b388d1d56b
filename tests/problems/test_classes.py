"""A selection of classes: by names, columns, window or share, and in one way."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gkd.core.labels import LabelSpace
from gkd.problems.classes import Classes

SIX = LabelSpace([*"abcdef"])


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ({"names": ["c", "a"]}, "ca"),
        ({"indices": [5, 0]}, "fa"),
        ({"size": 2, "shift": 1}, "bc"),
        ({"fraction": 1.0}, "abcdef"),
    ],
)
def test_a_selection_of_classes(selection: dict[str, Any], names: str) -> None:
    assert Classes(**selection).select(SIX) == LabelSpace([*names])


@pytest.mark.parametrize(
    ("selection", "got"), [({}, "none"), ({"names": ["a"], "size": 2}, "names and size")]
)
def test_a_selection_is_made_in_one_way(selection: dict[str, Any], got: str) -> None:
    with pytest.raises(ValidationError, match=f"exactly one of .*; got {got}"):
        Classes(**selection)
