"""Every test of steps runs in an empty folder, and draws plots where it is marked so."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _without_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's two plots take as long as its steps; `report` has their tests."""
    if request.node.get_closest_marker("plots") is None:
        monkeypatch.setattr("gkd.commands.run._plot", lambda folder, console: None)
