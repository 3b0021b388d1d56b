"""The scripts of benchmarks/, which are in no package, imported as they import each other."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def script(scripts: Callable[[str], ModuleType], request: pytest.FixtureRequest) -> ModuleType:
    """The script that the test's file is named after."""
    return scripts(request.module.__name__.rpartition("test_")[2])
