"""A longer run begins at the end of a finished shorter one: to the same bits, or as another run where asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gkd.core.errors import UserError
from tests.cli_helpers import gkd

WORDS = (
    "run", "cross_task/digits", "data.per_class=4", "run.threads=1", "run.precision=float32", "teacher.train.epochs=1",
    "optimiser.lr=0.01", "evaluate.every=1", "data.batch_size=8",
)  # fmt: skip
CONSTANT = "optimiser.schedule=constant"
Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_of(epochs: int, out: str = "runs", config: str = "cross_task/digits") -> Path:
    """The run of so many epochs."""
    folders = [path.parent for path in Path(out, config).rglob("summary.json")]
    (folder,) = [folder for folder in folders if sum(summary_of(folder)["epochs"].values()) == epochs]
    return folder


def summary_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def records_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def result_of(folder: Path) -> dict[str, object]:
    """All that a run leaves, but for times."""
    names = ("student.safetensors", "student-best.safetensors", "correct.json")
    summary = summary_of(folder)
    judged = {key: summary[key] for key in ("last", "best", "epochs", "empty_batches")}
    return {**{name: (folder / name).read_bytes() for name in names}, **judged, "metrics": records_of(folder)}


def full_disk(*_: object, **__: object) -> None:
    raise UserError("no space left on the device")


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("method=student",), marks=pytest.mark.full),
        ("method=kd", "data.views=2", "evaluate.every=2"),
        ("method=crd", "run.seed=1"),
    ],
)
def test_under_constant_schedules_the_longer_run_is_the_one_from_scratch(
    more: tuple[str, ...], capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*WORDS, CONSTANT, *more)
    assert gkd(*words, "run.epochs=2") == 0
    with (
        monkeypatch.context() as patched
    ):  # a start that ends before its first checkpoint leaves no record twice
        patched.setattr("gkd.experiment.extension.save_checkpoint", full_disk)
        assert gkd(*words, "run.epochs=5") == 2
    capsys.readouterr()
    assert gkd(*words, "run.epochs=5") == 0
    short, long = run_of(2), run_of(5)
    out = capsys.readouterr().out
    assert f"goes on from the 2 epochs of {short}, to the same bits as from scratch" in out
    origin = summary_of(long)["origin"]
    assert (origin["run"], origin["epochs"], origin["same_as_from_scratch"]) == (str(short), 2, True)
    if Path("runs/teachers").is_dir():
        shutil.copytree("runs/teachers", "scratch/teachers")
    assert gkd(*words, "run.epochs=5", "run.out=scratch") == 0
    assert "goes on" not in capsys.readouterr().out
    assert result_of(long) == result_of(run_of(5, "scratch"))
    assert summary_of(long)["identity"] == summary_of(run_of(5, "scratch"))["identity"]
    assert len(records_of(long)) == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("optimiser.schedule=cosine", "the learning rate has a cosine schedule, which more epochs stretch"),
        ("optimiser.warmup_epochs=1", "the learning rate is warmed up"),
        (
            "method.stages.train.terms.cross_entropy.schedule={kind: linear, warmup_epochs: 1}",
            "the weight of the term 'cross_entropy' has a linear schedule",
        ),
        ("evaluate.every=2", "where a longer run with evaluate.every=2 is not"),
        pytest.param(
            "method=refilled", "its method has the stages embedding, classifier", marks=pytest.mark.full
        ),
    ],
)
def test_what_would_be_another_result_is_trained_from_scratch_and_said(
    change: str, reason: str, capsys: Printed
) -> None:
    words = (*WORDS, "method=student", CONSTANT, change)
    assert gkd(*words, "run.epochs=3") == 0
    assert gkd(*words, "run.epochs=4") == 0
    out = capsys.readouterr().out
    assert f"{run_of(3)} of 3 epochs is not gone on from: " in out
    assert reason in out
    assert "origin" not in summary_of(run_of(4))
    assert len(records_of(run_of(4))) == 4


def test_where_it_is_asked_for_any_schedule_goes_on_as_a_run_of_its_own(capsys: Printed) -> None:
    words = (*WORDS, "method=student")  # cosine
    assert gkd(*words, "run.epochs=4", "run.extend=true") == 2
    assert "there is none in runs/cross_task/digits; run one first" in capsys.readouterr().err
    assert gkd(*words, "run.epochs=2") == 0
    assert gkd(*words, "run.epochs=4", "run.extend=true") == 0
    extended, short = run_of(4), run_of(2)
    capsys.readouterr()
    origin = summary_of(extended)["origin"]
    assert (origin["epochs"], origin["identity"]) == (2, summary_of(short)["identity"])
    assert origin["same_as_from_scratch"] is False
    assert [record["epoch"] for record in records_of(extended)] == [1, 2, 3, 4]
    assert records_of(extended)[0]["loss"] == records_of(short)[0]["loss"]
    assert gkd(*words, "run.epochs=4") == 0  # from scratch: another run, beside it
    out = capsys.readouterr().out
    assert "run.extend=true goes on all the same" in out
    assert "was finished before" not in out
    others = [path.parent for path in Path("runs/cross_task/digits").rglob("summary.json")]
    (scratch,) = set(others) - {extended, short}
    assert result_of(scratch)["student.safetensors"] != result_of(extended)["student.safetensors"]
    assert gkd(*words, "run.epochs=6", "run.extend=true") == 0
    assert summary_of(run_of(6))["origin"]["epochs"] == 4
    assert gkd(*words, "run.epochs=4", "run.extend=true") == 0
    assert "was finished before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("run", "cross_task/digits", "method=refilled"), "refilled has the stages embedding, classifier"),
        (("run", "incremental/digits", "method=replay"), "incremental has several"),
    ],
)
def test_what_cannot_be_extended_is_told_before_anything_is_read(
    words: tuple[str, ...], why: str, capsys: Printed
) -> None:
    assert gkd(*words, "run.extend=true") == 2
    assert why in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize("harm", ["no checkpoint", "another machine", "damaged"])
def test_a_shorter_run_of_no_use_is_said_and_not_gone_on_from(
    harm: str, tmp_path: Path, capsys: Printed
) -> None:
    words = (*WORDS, "method=student", CONSTANT, "run.checkpoint_seconds=0")
    assert gkd(*words, "run.epochs=2") == 0
    short = run_of(2)
    if harm == "no checkpoint":
        last = max((short / "checkpoints").iterdir())
        last.rename(tmp_path / "last")  # the one before is no end of the run
    elif harm == "another machine":
        env = json.loads((short / "env.json").read_text())
        (short / "env.json").write_text(json.dumps({**env, "threads": 7}))
    else:
        (short / "student.safetensors").write_bytes(b"damaged")
    for extend in ("true", "false"):
        code = gkd(*words, "run.epochs=4", f"run.extend={extend}")
        printed = capsys.readouterr()
        if extend == "true":
            assert code == 2
            if harm == "no checkpoint":
                shutil.rmtree(short / "checkpoints")
            told = "there is none" if harm == "damaged" else "run.extend=true cannot go on from"
            assert told in printed.err
            assert ("2 epochs is not gone on from: " in printed.out) == (harm == "damaged")
        else:
            assert code == 0
            reasons = {
                "no checkpoint": "its last checkpoint is gone",
                "another machine": "it ran with threads 7",
                "damaged": f"not gone on from: {short / 'student.safetensors'} was damaged",
            }
            assert reasons[harm] in printed.out
    assert "origin" not in summary_of(run_of(4))
