"""Generations of students: each a run of its own, taught by the one before; killed, they go on where they were."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gkd.config.load import load
from gkd.config.resolve import Resolved
from gkd.data.addressed_random import PURPOSE_GENERATION, key_of
from gkd.experiment.prepare import prepare
from gkd.experiment.run_folder import run_folder
from gkd.models import build_network
from gkd.storage.checkpoints import latest_checkpoint
from gkd.storage.run_files import SUMMARY
from tests.cli_helpers import gkd, start
from tests.processes import Child
from tests.refusals import refused

# Student and teacher share two classes of five; a generation is a second of training.
WORDS = (
    "cross_task/digits", "method=refilled_joint", "task.shift=3", "run.epochs=8", "teacher.train.epochs=2",
    "evaluate.every=4", "data.per_class=20", "run.threads=1", "run.precision=float32", "teacher.network=resnet8",
)  # fmt: skip
THREE = (*WORDS, "task.generations=3")
STUDENT = "student.safetensors"


def folder_of(number: int, *words: str) -> Path:
    return run_folder(load(WORDS[0], [*WORDS[1:], *words, f"task.generations={number}"]))


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / SUMMARY).read_text())


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which three generations ran to their end."""
    folder = tmp_path_factory.mktemp("three")
    process = start("run", *THREE, cwd=folder)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (folder / "printed").write_text(printed)
    return folder


def test_each_generation_is_a_run_and_the_summary_lists_them_all(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(three)
    folders = [folder_of(number) for number in (1, 2, 3)]
    summaries = [summary_of(folder) for folder in folders]
    assert len(set(folders)) == 3
    assert "generations" not in summaries[0]
    for number in (2, 3):
        listed = summaries[number - 1]["generations"]
        assert [each["run"] for each in listed] == [str(folder) for folder in folders[:number]]
        for each, summary in zip(listed, summaries[:number], strict=True):
            assert each["last"] == summary["last"]["accuracy"]
            assert each["best"] == summary["best"]["accuracy"]
            assert each["identity"] == summary["identity"]
            assert each["weights"].startswith("tensors:")
    # The first is taught over overlapping classes, the others over the student's own.
    assert [summary["relation"]["kind"] for summary in summaries] == ["overlapping", "same", "same"]
    for before, after in itertools.pairwise(summaries):
        assert after["teacher"]["accuracy"] == before["last"]["accuracy"]
    assert summaries[2]["last"]["accuracy"] > 60  # chance is 20
    shown = ", ".join(f"{n}: {s['last']['accuracy']:.2f} %" for n, s in enumerate(summaries, start=1))
    assert f"generation's last epoch {shown}" in (three / "printed").read_text()


def test_the_ensemble_is_the_mean_of_the_students_logits(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(three)
    prepared = prepare(load(WORDS[0], list(THREE[1:])))
    test, settings = prepared.problem.student.test, prepared.settings
    pixels = (test.images.float() / 255 - settings.mean[0]) / settings.std[0]
    total = torch.zeros(len(test), 5)
    for number in (1, 2, 3):
        network = build_network("resnet8", num_classes=5, in_channels=1)
        network.load_state_dict(load_file(folder_of(number) / STUDENT))
        network.eval()
        with torch.no_grad():
            total += torch.cat([network(part) for part in pixels.split(64)])
    right = 100 * (total.argmax(1) == test.labels).double().mean().item()
    assert summary_of(folder_of(3))["ensemble"] == pytest.approx(right, abs=0.011)


def test_a_later_generation_is_the_run_that_a_checkpoint_of_the_one_before_gives(
    three: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same bits as a plain run over the student's classes, from the generation's initial weights."""
    monkeypatch.chdir(three)
    teacher = (folder_of(1) / STUDENT).resolve()
    later = (folder_of(2) / STUDENT).resolve()
    torch.manual_seed(key_of(PURPOSE_GENERATION, 0, 2) % 2**63)
    initial = tmp_path / "initial.safetensors"
    save_file(build_network("resnet8", num_classes=5, in_channels=1).state_dict(), initial)
    monkeypatch.chdir(tmp_path)
    classes = "{size: 5, shift: 3}"
    by_hand = [
        *WORDS[1:], "task.size=null", "task.shift=0", f"task.teacher_classes={classes}",
        f"task.student_classes={classes}", "teacher.network=resnet8", f"teacher.checkpoint={teacher}",
        f"student.checkpoint={initial}",
    ]  # fmt: skip
    assert gkd("run", WORDS[0], *by_hand) == 0
    assert same_weights(run_folder(load(WORDS[0], by_hand)) / STUDENT, later)


def test_generations_start_from_other_weights_on_the_same_batches() -> None:
    def begun(number: int) -> tuple[torch.Tensor, int]:
        prepared = prepare(load(WORDS[0], [*WORDS[1:], f"task.generations={number}"]))
        return next(iter(prepared.student.parameters())).detach().flatten(), prepared.settings.seed

    (first, seed), (second, other), (third, _) = (begun(number) for number in (1, 2, 3))
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert seed == other
    assert torch.equal(begun(2)[0], second)
    torch.manual_seed(0)  # the first is the plain run's
    assert torch.equal(
        next(iter(build_network("resnet8", num_classes=5, in_channels=1).parameters())).flatten(), first
    )


def wait_for_checkpoint(folder: Path, process: Child) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if latest_checkpoint(folder / "checkpoints") is not None:
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint in {folder}")


def test_killed_in_a_generation_it_goes_on_there_and_the_finished_ones_stay(
    three: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    longer = (*THREE, "run.checkpoint_seconds=0.02")
    process = start("run", *longer, cwd=tmp_path)
    second = folder_of(2)
    wait_for_checkpoint(second, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (second / SUMMARY).is_file(), "killed before the end of the second generation"
    assert not folder_of(3).exists()
    finished = (folder_of(1) / SUMMARY).stat().st_mtime_ns
    process = start("run", *longer, cwd=tmp_path)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert (folder_of(1) / SUMMARY).stat().st_mtime_ns == finished
    assert f"continued from {second}" in printed
    for number in (1, 2, 3):
        assert same_weights(folder_of(number) / STUDENT, three / folder_of(number) / STUDENT)
    ours, whole = (summary_of(root / folder_of(3)) for root in (tmp_path, three))
    assert ours["generations"] == whole["generations"]
    assert ours["ensemble"] == whole["ensemble"]


def test_a_further_generation_trains_that_one_alone(
    three: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(three / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(SUMMARY)}
    assert gkd("run", *THREE) == 0
    assert "was finished before, nothing was trained" in capsys.readouterr().out
    # The file of a student is gone: the others' mean is not told, and nothing is trained for it.
    (folder_of(1) / STUDENT).unlink()
    shutil.rmtree(folder_of(1) / "checkpoints")
    assert gkd("run", *WORDS, "task.generations=4") == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    listed = summary_of(folder_of(4))
    assert (len(listed["generations"]), listed["ensemble"]) == (4, None)
    assert "the mean of their logits" not in capsys.readouterr().out


def test_a_longer_later_generation_does_not_go_on_from_a_shorter_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under a constant schedule a plain run does, to the same bits; a later generation has another teacher then."""
    monkeypatch.chdir(tmp_path)
    words = [*WORDS, "optimiser.schedule=constant", "task.generations=2"]
    assert gkd("run", *words, "run.epochs=4") == 0
    capsys.readouterr()
    assert gkd("run", *words, "run.epochs=8") == 0
    assert capsys.readouterr().out.count("note      goes on from the 4 epochs") == 1  # of the first


def test_a_grid_compares_generations_and_evaluation_reads_their_runs(
    three: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(three / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    given = (word for word in WORDS if not word.startswith(("method=", "task.")))  # the grid sets these
    grid = (
        "compare", *given, "compare.methods=[student, refilled_joint]", "compare.seeds=[0]",
        "compare.axes={task.shift: [3], task.generations: [1, 2, 3]}", "compare.results=table",
    )  # fmt: skip
    assert gkd(*grid) == 0
    assert len([*Path("runs/cross_task/digits").glob("student-*/seed0")]) == 1  # alone it has no generations
    rows = json.loads(Path("table/table.json").read_text())["rows"]
    taught = [row for row in rows if row["label"] == "refilled_joint"]
    means = {row["axes"]["task.generations"]: row["mean"] for row in taught}
    assert set(means) == {1, 2, 3}
    for number, mean in means.items():
        assert mean == pytest.approx(summary_of(folder_of(number))["last"]["accuracy"])
    cell = next(Path("table/cells").glob("refilled_joint-*generations=3-*"))
    assert len(json.loads(cell.read_text())["generations"]) == 3
    capsys.readouterr()
    assert gkd("eval", str(folder_of(3))) == 0
    assert f"accuracy {summary_of(folder_of(3))['last']['accuracy']:.4g} " in capsys.readouterr().out


def test_what_the_teacher_is_expected_to_have_is_of_the_first_generations(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(three)
    accuracy = summary_of(folder_of(1))["teacher"]["accuracy"]
    assert accuracy != summary_of(folder_of(3))["teacher"]["accuracy"]
    assert gkd("run", *THREE, f"teacher.expect={accuracy} ± 0.01") == 0


def test_a_method_that_no_later_generation_can_have_is_refused_before_any_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["task.shift=0", "method=kd", "task.generations=2"]
    prepare(load(WORDS[0], words))
    with refused("method-not-applicable"):
        prepare(load(WORDS[0], ["task.shift=2", "method=ucir", "method.after=[]", "task.generations=2"]))
    assert gkd("run", WORDS[0], "task.shift=5", "method=kd", "task.generations=2") == 2
    assert not list(tmp_path.rglob("env.json"))


def resolved(*words: str) -> Resolved:
    return load(WORDS[0], [*WORDS[1:], *words])


def test_the_generation_before_is_asked_for_by_its_number() -> None:
    prepared = prepare(resolved("task.generations=3"))
    assert prepared.generation == 3
    assert prepared.of_generation(1).identity == resolved().identity
    assert prepared.of_generation(2).identity == resolved("task.generations=2").identity
