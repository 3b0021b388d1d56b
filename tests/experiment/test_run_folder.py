"""A run's folder is locked, cleared of what killed writers left, and never written through a link."""

from __future__ import annotations

from pathlib import Path

import pytest

from gkd.core.errors import UserError
from gkd.experiment.run_folder import locked


@pytest.mark.parametrize("name", [".lock", "checkpoints", "steps", "problems"])
def test_a_link_in_a_foreign_folder_is_not_followed(tmp_path: Path, name: str) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    if name == ".lock":
        victim.write_text("precious")
    else:
        victim.mkdir()
    (run / name).symlink_to(victim)
    with pytest.raises(UserError) as caught, locked(run, None):
        pass
    assert caught.value.code == "not-a-regular-file"
    assert str(run / name) in str(caught.value)
    assert victim.is_dir() or victim.read_text() == "precious"


def test_a_run_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "large-disk")
    with locked(tmp_path / "run", None):
        pass
    assert (tmp_path / "large-disk" / ".lock").is_file()


def test_what_killed_writers_left_is_cleared_in_every_folder_of_the_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "steps" / "2"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gkd-0123456789abcdef.tmp.json").write_text("half")
        (folder / "summary.json").write_text("{}")
    with locked(tmp_path, None):
        pass
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == [".lock", "steps/2/summary.json", "summary.json"]
