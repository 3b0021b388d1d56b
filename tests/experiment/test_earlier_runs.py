"""Runs of before under their former names, and what is said of those that may be, or are not, the one asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gkd.config.load import load
from gkd.config.resolve import Resolved
from gkd.experiment.earlier_runs import about_earlier_runs
from gkd.experiment.run_folder import run_folder
from tests.config.test_identity import photographs

WORDS = ["student.network=own_code:net", "method=student"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module of the user's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_code.py").write_text("def net(): ...\n")
    return tmp_path


def stands(name: str, *, env: dict[str, object] | None = None, finished: bool = True, seed: int = 0) -> Path:
    """A run's folder under a name, as far as the names look at it."""
    folder = Path("runs", "cross_task", "digits", f"student-{name}", f"seed{seed}")
    folder.mkdir(parents=True)
    (folder / "env.json").write_text(json.dumps(env or {}))
    if finished:
        (folder / "summary.json").write_text("{}")
    return folder


def said(resolved: Resolved) -> list[str]:
    return list(about_earlier_runs(resolved, run_folder(resolved)))


def test_a_run_of_before_is_found_under_its_former_name(here: Path) -> None:
    """By its seed: another seed of the run is a new one."""
    names = load("cross_task/digits", WORDS).identities
    assert names.former
    folder = stands(names.former[0])
    resolved = load("cross_task/digits", WORDS)
    assert run_folder(resolved) == folder
    (line,) = said(resolved)
    assert "before gkd recorded the source of own_code:net" in line
    assert str(folder) in line
    other = load("cross_task/digits", [*WORDS, "run.seed=1"])
    assert run_folder(other) == Path(
        "runs", "cross_task", "digits", f"student-student.network=own_code_net-{names.identity}", "seed1"
    )
    # Under its own name a run comes first.
    ours = stands(names.identity, env={"sources": names.sources})
    assert run_folder(resolved) == ours
    assert said(resolved) == []


def test_an_edited_module_is_another_run_and_names_the_earlier_one(here: Path) -> None:
    names = load("cross_task/digits", WORDS).identities
    record = {"sources": names.sources, "identity_without_sources": names.without_sources}
    folder = stands(names.identity, env=record)
    assert run_folder(load("cross_task/digits", WORDS)) == folder
    (here / "own_code.py").write_text("def net(): pass\n")
    edited = load("cross_task/digits", WORDS)
    assert run_folder(edited) != folder
    (line,) = said(edited)
    assert "the source of own_code:net is not that of the finished run" in line
    assert str(folder) in line
    # Another config's runs, unfinished ones and what is no record are no matter.
    (folder / "summary.json").unlink()
    (folder / "env.json").write_text("damaged")
    assert said(edited) == []


def test_what_went_on_under_a_former_name_keeps_its_source(here: Path) -> None:
    """It was begun before sources were recorded, and finished with them."""
    names = load("cross_task/digits", WORDS).identities
    folder = stands(names.former[0], env={"sources": names.sources})
    assert run_folder(load("cross_task/digits", WORDS)) == folder
    (here / "own_code.py").write_text("def net(): pass\n")
    assert run_folder(load("cross_task/digits", WORDS)) != folder


def test_photographs_that_are_turned_name_the_run_that_did_not(here: Path) -> None:
    words = ["data.name=folder", photographs(here / "photos", 6), "method=student"]
    resolved = load("cross_task/digits", words)
    folder = stands(resolved.identities.unturned or "")
    assert run_folder(resolved) != folder
    (line,) = said(resolved)
    assert str(folder) in line
    assert "data.exif=ignore" in line
    assert run_folder(load("cross_task/digits", [*words, "data.exif=ignore"])) == folder
