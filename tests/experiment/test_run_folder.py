"""A run's folder is locked, cleared of strays, never written through a link, and checked where it is used."""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
from PIL import Image

from gkd.core.errors import UserError
from gkd.experiment.run_folder import finished, locked, said_below, write_summary
from gkd.storage.json_files import Damaged
from gkd.storage.manifest import files_of
from gkd.storage.run_results import RunSummary
from tests.cli_helpers import gkd
from tests.refusals import refused
from tests.result_helpers import results

# Half a second: a teacher of one epoch and its student.
WORDS = (
    "run", "cross_task/digits", "method=kd", "run.epochs=1", "teacher.train.epochs=1", "data.per_class=4",
    "run.threads=1", "run.precision=float32",
)  # fmt: skip
FILES = ("student.safetensors", "student-best.safetensors", "correct.json", "config.yaml", "summary.json")


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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a teacher and its student have been trained."""
    folder = tmp_path_factory.mktemp("whole")
    with chdir(folder):
        assert gkd(*WORDS) == 0
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in a folder of the test's own, which is the working directory."""
    shutil.copytree(whole / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_runs_below_a_folder_that_is_none_are_named(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_in(copy).relative_to(copy)
    below = run.parent.parent
    Path("photo.png").touch()
    assert said_below(below) == f" A finished run lies below it: {run}."
    for words in (("eval",), ("export", "--format", "pt2"), ("predict", "photo.png")):
        assert gkd(words[0], str(below), *words[1:]) == 2
        assert f"A finished run lies below it: {run}." in capsys.readouterr().err
    shutil.copytree(run.parent, run.parent.with_name("another"))
    assert said_below(below).startswith(" 2 finished runs lie below it, such as ")
    for none in (run, Path("nowhere"), run / "summary.json"):
        assert said_below(none) == ""
    (run / "steps" / "1").mkdir(parents=True)  # a step is no run
    shutil.copy(run / "summary.json", run / "steps" / "1")
    assert said_below(run) == ""


def test_a_finished_run_has_checksums_of_all_that_its_results_rest_on(tmp_path: Path) -> None:
    names = {
        *("config.yaml", "correct.json", "episodes.json", "matrix.json", "origin.json"),
        *("student.safetensors", "student-best.safetensors", "episodes-5-way.safetensors"),
        *("steps/1/summary.json", "steps/1/memory.json"),
    }
    for name in {*names, "command.txt", "env.json", "curves.png", "steps/1/student.safetensors"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    write_summary(tmp_path, RunSummary.model_validate(results()))
    assert set(files_of(tmp_path / "summary.json") or ()) == names


def run_in(folder: Path, part: str = "cross_task/digits") -> Path:
    """The one run below a part of runs/."""
    (summary,) = (folder / "runs" / part).rglob("summary.json")
    return summary.parent


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def kept(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in FILES if name != "summary.json"}


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_a_finished_run_is_told_where_it_is_used_and_mended_by_its_command(
    copy: Path, whole: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = run_in(copy)
    flip_a_bit(run / name)
    Path("picture.png").touch()
    for verb in ("eval", "export", "predict"):
        if verb == "export" and name not in ("student.safetensors", "summary.json"):
            continue  # it reads nothing else
        more = {"export": ["--format", "safetensors"], "predict": ["picture.png"]}.get(verb, [])
        assert gkd(verb, str(run), *more) == 2, verb
        assert str(run / name) in capsys.readouterr().err
    assert gkd(*WORDS) == 0
    assert "finished again from its last checkpoint" in capsys.readouterr().out
    assert kept(run) == kept(run_in(whole))
    assert finished(run) is not None
    assert gkd(*WORDS) == 0
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["flipped", "removed"])
def test_a_damaged_teacher_is_mended_before_it_teaches(
    copy: Path, whole: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    weights = run_in(copy, "teachers") / "student.safetensors"
    if damage == "flipped":
        flip_a_bit(weights)
    else:
        weights.unlink()
    shutil.rmtree(copy / "runs" / "cross_task" / "digits")
    assert gkd(*WORDS) == 0
    assert (
        f"{weights.relative_to(copy)} {'is gone' if damage == 'removed' else 'was damaged'}"
        in capsys.readouterr().out
    )
    assert kept(run_in(copy)) == kept(run_in(whole))
    assert weights.read_bytes() == (run_in(whole, "teachers") / weights.name).read_bytes()


def test_without_a_checkpoint_the_sentence_says_what_to_remove(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, run = run_in(copy, "teachers"), run_in(copy)
    for folder in (teacher, run):
        shutil.rmtree(folder / "checkpoints")
    flip_a_bit(teacher / "student.safetensors")
    weights = run / "student.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    assert gkd(*WORDS) == 0  # the results are whole
    assert "student.safetensors is gone; the results were read from summary.json" in capsys.readouterr().out
    weights.write_bytes(content)
    flip_a_bit(weights)
    assert gkd(*WORDS) == 2
    assert f"emove {run.relative_to(copy)}/summary.json" in capsys.readouterr().err
    shutil.rmtree(run)
    for change in (lambda: None, (teacher / "student.safetensors").unlink):  # damaged, then gone
        change()
        assert gkd(*WORDS) == 2
        assert f"emove {teacher.relative_to(copy)}/summary.json" in capsys.readouterr().err


def test_a_run_that_an_earlier_gkd_finished_is_read_with_one_line(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_in(copy)
    content = json.loads((run / "summary.json").read_text())
    del content["manifest"]
    (run / "summary.json").write_text(json.dumps(content))
    before = kept(run)
    assert gkd(*WORDS) == 0
    out = capsys.readouterr().out
    assert out.count("left no checksums") == 1
    assert "was finished before, nothing was trained" in out
    assert kept(run) == before
    assert json.loads((run / "summary.json").read_text()) == content
    Image.new("L", (8, 8)).save("digit.png")
    for verb, *more in (("eval",), ("export", "--format", "safetensors"), ("predict", "digit.png")):
        assert gkd(verb, str(run), *more) == 0
        told = capsys.readouterr()
        assert (told.err if verb == "predict" else told.out).count("left no checksums") == 1, verb
    (run / "student.safetensors").unlink()
    with refused("file-missing") as caught:
        finished(run)
    assert isinstance(caught.value, Damaged)


@pytest.mark.parametrize("name", ["config.yaml", "command.txt", "env.json", "metrics.jsonl"])
def test_a_link_in_the_place_of_a_file_of_the_run_is_not_written_through(
    copy: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run, victim = run_in(copy), copy / "victim"
    victim.write_text("precious")
    shutil.rmtree(run)
    run.mkdir()
    (run / name).symlink_to(victim)
    assert gkd(*WORDS) == 2
    assert f"{name} is a link, and gkd writes only to regular files" in capsys.readouterr().err
    assert victim.read_text() == "precious"


def test_a_finished_run_is_reported_where_its_folder_cannot_be_written_to(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_in(copy)
    (run / "routing.json").write_text(
        '{"stage": "distil", "epoch": 1, "classes": ["0"], "shares": {"embedding": [0.5]}}'
    )
    before = (run / "summary.json").read_bytes()

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr("gkd.storage.whole_files.os.open", read_only)
        patched.setattr("gkd.storage.whole_files.os.replace", read_only)
        assert gkd(*WORDS, "evaluate.metrics=[macro_f1]") == 0
    out = capsys.readouterr().out
    assert "note      no plot: Cannot write to" in out
    assert "note      the metrics are not kept: Cannot write to" in out
    assert "macro_f1" in out
    assert (run / "summary.json").read_bytes() == before
    (run / "routing.json").write_text("{")
    assert gkd(*WORDS) == 0
    assert "note      no plot:" in capsys.readouterr().out
