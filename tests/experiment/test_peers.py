"""A run of two students: both are judged, saved and can be taken up again by path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gkd.config.load import load
from gkd.experiment.prepare import prepare
from gkd.experiment.run_folder import run_folder
from gkd.models import build_network, count_parameters
from tests.cli_helpers import gkd, start

WORDS = (
    "cross_task/digits", "method=mutual", "teacher=null", "run.epochs=12", "evaluate.every=4", "data.per_class=20",
    "run.threads=1", "run.precision=float32", "student.peer.network=wrn_16_1",
)  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run, and what it printed."""
    root = tmp_path_factory.mktemp("mutual")
    process = start("run", *WORDS, cwd=root)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    (summary,) = root.rglob("summary.json")
    return summary.parent, printed


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_both_are_judged_saved_and_told(ran: tuple[Path, str]) -> None:
    folder, printed = ran
    summary = summary_of(folder)
    prepared = prepare(load(WORDS[0], list(WORDS[1:])))
    test, settings = prepared.problem.student.test, prepared.settings
    pixels = (test.images.float() / 255 - settings.mean[0]) / settings.std[0]
    found = {}
    for network, file in (("resnet8", "student"), ("wrn_16_1", "peer")):
        built = build_network(network, num_classes=5, in_channels=1)
        built.load_state_dict(load_file(folder / f"{file}.safetensors"))
        with torch.no_grad():
            found[file] = 100 * (built.eval()(pixels).argmax(1) == test.labels).double().mean().item()
    assert summary["last"]["accuracy"] == pytest.approx(found["student"], abs=0.011)
    assert summary["peer"]["last"]["accuracy"] == pytest.approx(found["peer"], abs=0.011)
    assert min(found.values()) > 40  # chance is 20
    assert summary["peer"]["network"] == "wrn_16_1"
    assert summary["peer"]["parameters"] == count_parameters(built)
    assert summary["parameters"] == count_parameters(build_network("resnet8", num_classes=5, in_channels=1))
    assert f"peer      wrn_16_1: test accuracy {summary['peer']['last']['accuracy']:.2f} %" in printed
    assert {"peer.safetensors", "peer-best.safetensors"} <= summary["manifest"]["files"].keys()


def test_the_students_start_from_other_weights_and_the_seed_tells_which() -> None:
    def begun(*words: str) -> list[torch.Tensor]:
        prepared = prepare(load(WORDS[0], [*WORDS[1:-1], *words]))
        assert prepared.peer is not None
        return [
            next(iter(each.parameters())).detach().flatten() for each in (prepared.student, prepared.peer)
        ]

    (student, peer), again = begun(), begun()
    assert not torch.equal(student, peer)
    assert torch.equal(peer, again[1])
    assert not torch.equal(peer, begun("run.seed=1")[1])
    alone = prepare(load(WORDS[0], ["method=student", *WORDS[2:-1]]))
    assert alone.peer is None
    assert torch.equal(next(iter(alone.student.parameters())).flatten(), student)


def test_the_student_is_what_is_evaluated_exported_and_predicts_and_the_peer_by_its_path(
    ran: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, _ = ran
    summary = summary_of(folder)
    monkeypatch.chdir(tmp_path)
    assert gkd("eval", str(folder)) == 0
    assert f"accuracy {summary['last']['accuracy']:.4g} " in capsys.readouterr().out
    assert gkd("eval", str(folder / "peer.safetensors"), "data.name=digits") == 0
    assert f"accuracy {summary['peer']['last']['accuracy']:.4g} " in capsys.readouterr().out
    assert gkd("export", str(folder), "--format", "safetensors") == 0
    # A file of the peer's teaches as any other does.
    words = ("method=kd", "teacher.network=wrn_16_1", f"teacher.checkpoint={folder / 'peer.safetensors'}")
    assert gkd("run", WORDS[0], *words, "run.epochs=1", "run.threads=1", "run.precision=float32") == 0
    assert f"{summary['peer']['last']['accuracy']:.2f} % on its own classes" in capsys.readouterr().out


def test_a_finished_run_is_not_repeated_and_a_grid_compares_it(
    ran: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = ran
    monkeypatch.chdir(folder.parents[4])
    assert run_folder(load(WORDS[0], list(WORDS[1:]))).resolve() == folder
    given = (word for word in WORDS if not word.startswith(("method=", "run.epochs")))
    grid = (
        "compare", *given, "run.epochs=12", "compare.methods=[student, mutual]", "compare.seeds=[0]",
        "compare.axes={task.shift: [0]}", "compare.results=table",
    )  # fmt: skip
    assert gkd(*grid) == 0
    assert "2 cells, 1 cells trained now" in capsys.readouterr().out
    (cell,) = Path("table/cells").glob("mutual-*.json")
    assert json.loads(cell.read_text())["peer"] == summary_of(folder)["peer"]


def test_a_dry_run_tries_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gkd("run", *WORDS, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "peer      wrn_16_1, " in printed
    assert "stage     train: loss" in printed
    assert gkd("run", *WORDS, "student.peer.network=resnet20", "student.peer.options={head: nothing}") == 2
    assert not list(tmp_path.rglob("env.json"))
