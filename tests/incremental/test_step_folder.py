"""A finished step is whole or made again, and never mixed with the model of another run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gkd.storage.checksums import sha256
from gkd.storage.weights import read_weights, save_weights, tensors_hash
from tests.cli_helpers import gkd

# Four digits, then three and three; under a second a run.
WORDS = (
    "run", "incremental/digits", "task.base=4", "task.increment=3", "task.base_epochs=1", "run.epochs=1",
    "run.threads=1", "data.batch_size=64", "method=icarl",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of three steps."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert gkd(*WORDS) == 0
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's own folder in a copy, from which its command continues it."""
    shutil.copytree(whole / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return next(Path("runs").rglob("matrix.json")).parent


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def swap(path: Path) -> None:
    """Other weights of the same network."""
    tensors, metadata = read_weights(path)
    save_weights(path, {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, metadata)


def say_nonsense(path: Path) -> None:
    path.write_text('{"exemplars": {"0": [1, "two"], "eleven": [0]}}')


DAMAGES = [
    ("steps/2", shutil.rmtree),
    ("steps/2/student.safetensors", Path.unlink),
    ("steps/2/student.safetensors", truncate),
    ("steps/2/student.safetensors", swap),
    ("steps/2/summary.json", truncate),
    ("steps/2/memory.json", truncate),
    ("steps/2/memory.json", say_nonsense),
    ("steps/2/memory.json", Path.unlink),
    ("steps/3/student-best.safetensors", Path.unlink),
    ("steps/3/student-best.safetensors", swap),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_step_is_made_again_to_the_same_bits(
    name: str, damage: Callable[[Path], None], run: Path
) -> None:
    students = sorted(run.rglob("student*.safetensors"))
    before = [tensors_hash(read_weights(path)[0]) for path in students]
    matrix = (run / "matrix.json").read_text()
    (run / "summary.json").unlink()  # as where the run had not come to its end
    damage(run / name)
    assert gkd(*WORDS) == 0
    assert (run / "matrix.json").read_text() == matrix
    assert [tensors_hash(read_weights(path)[0]) for path in students] == before


def test_what_was_damaged_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "summary.json").unlink()
    truncate(run / "steps/2/memory.json")
    assert gkd(*WORDS) == 0
    printed = capsys.readouterr().out
    assert "note      step 2 is finished again, for its files have changed" in printed
    assert "memory.json was damaged or replaced after its run had finished" in printed
    assert "step 3/3" not in printed, "whole steps are not repeated"
    assert "note      continued at step 2: the steps before it are finished" in printed


def test_a_student_of_another_model_than_there_is_now_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "summary.json").unlink()
    path = run / "steps/2/summary.json"
    summary = json.loads(path.read_text())
    del summary["manifest"]  # as an earlier version left it
    path.write_text(json.dumps(summary))
    swap(run / "steps/2/student.safetensors")
    tensors, _ = read_weights(run / "steps/2/student.safetensors")
    summary["hashes"]["last"] = tensors_hash(tensors)
    path.write_text(json.dumps(summary))
    assert gkd(*WORDS) == 2
    assert "learnt from another model of step 2 than there is now" in capsys.readouterr().err
    assert (run / "steps/3/student.safetensors").is_file(), "nothing is lost"
    del summary["hashes"]  # a step that an earlier version finished is taken at its word
    path.write_text(json.dumps(summary))
    assert gkd(*WORDS) == 0


def test_a_given_model_is_the_one_that_was_asked_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also for a method that needs no teacher, and whose first step was judged with another file."""
    given = Path("given.safetensors")
    shutil.copy(run / "steps/1/student.safetensors", given)
    words = (*WORDS, "method=replay", "teacher.network=resnet8", f"teacher.checkpoint={given}")
    assert gkd(*words, f"teacher.sha256={'ab' * 32}") == 2
    assert "not the abababababab... of teacher.sha256" in capsys.readouterr().err
    words += (f"teacher.sha256={sha256(given)}",)
    assert gkd(*words) == 0
    (own,) = {path.parent for path in Path("runs").rglob("matrix.json")} - {run}
    (own / "summary.json").unlink()
    swap(given)
    assert gkd(*words) == 2, "the file under the same name and checksum is another"
    assert "teacher.sha256" in capsys.readouterr().err
    shutil.copy(run / "steps/1/student.safetensors", given)
    assert gkd(*words) == 0


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_lost_matrix_is_written_again(
    damage: Callable[[Path], None], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "matrix.json"
    matrix = path.read_text()
    damage(path)
    assert gkd(*WORDS) == 0
    told = "was damaged or replaced" if damage is truncate else "is gone"
    assert f"finished again from its last checkpoint, for {path} {told}" in capsys.readouterr().out
    assert "step 1/3" not in capsys.readouterr().out, "nothing is trained again"
    assert path.read_text() == matrix


def test_eval_names_the_exemplars_that_are_not_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "steps/3/memory.json").unlink()
    assert gkd("eval", str(run)) == 2
    assert "memory.json is gone, though its run is finished" in capsys.readouterr().err
    assert gkd(*WORDS) == 0
    assert gkd("eval", str(run)) == 0


def test_a_run_of_steps_goes_on_where_it_was_started(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "summary.json").unlink()
    shutil.rmtree(run / "steps/3")
    env = json.loads((run / "env.json").read_text())
    (run / "env.json").write_text(json.dumps({**env, "threads": 64}))
    assert gkd(*WORDS) == 2
    assert "was started with threads 64" in capsys.readouterr().err
    assert gkd(*WORDS, "run.allow_changed=[threads]") == 0


def test_an_export_says_that_something_else_than_its_logits_answered(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gkd("export", str(run), "--format", "safetensors") == 0
    answers = "the file answers by the nearest class mean of the exemplars, as its run was judged"
    assert answers in capsys.readouterr().out
    assert (
        gkd("export", str(run / "student.safetensors"), "--format", "safetensors", "--out", "own.safetensors")
        == 0
    )
    assert answers in capsys.readouterr().out, "the file says so itself"
