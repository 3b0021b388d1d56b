"""SimKD: a student that ends in its teacher's head is built, trained, judged, saved and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gkd.config.load import load
from gkd.core.labels import LabelSpace
from gkd.experiment.prepare import Prepared, prepare
from gkd.experiment.projected_student import with_projector
from gkd.experiment.teachers import random_teacher
from gkd.models import ProjectedNetwork
from gkd.models.load import load_network
from tests.cli_helpers import gkd
from tests.refusals import refused

SAME = ["task.shift=0", "method=simkd"]


def projected(prepared: Prepared) -> ProjectedNetwork:
    student = with_projector(prepared, random_teacher(prepared)).student
    assert isinstance(student, ProjectedNetwork)
    return student


def test_the_head_is_the_teachers_in_the_students_order() -> None:
    prepared = prepare(load("cross_task/digits", SAME))
    teacher = random_teacher(prepared)
    relation = prepared.problem.relation
    student = with_projector(prepared, teacher).student
    assert isinstance(student, ProjectedNetwork)
    embedding = torch.randn(3, teacher.network.embedding_dim)
    theirs: Tensor = teacher.network.head(embedding)
    ours: Tensor = student.head(embedding)
    for column, name in enumerate(relation.student.names):
        torch.testing.assert_close(ours[:, column], theirs[:, relation.teacher.names.index(name)])


def test_the_projector_follows_from_the_seed_alone() -> None:
    first, again, other = (prepare(load("cross_task/digits", [*SAME, f"run.seed={s}"])) for s in (0, 0, 1))
    torch.rand(7)  # what was drawn in between does not matter
    weights = [projected(each).projector[0].weight for each in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_what_a_teachers_head_cannot_end_is_refused() -> None:
    with refused("method-not-applicable"):
        prepare(load("cross_task/digits", ["task.shift=2", "method=simkd"]))
    other = prepare(load("cross_task/digits", SAME))
    space = LabelSpace([*other.problem.relation.student.names[:-1], "another"])
    seen = other.with_problem(other.problem.with_relation(other.problem.relation.of_teacher(space)))
    with refused("method-not-applicable"):
        with_projector(seen, random_teacher(other))
    own_head = prepare(load("cross_task/digits", ["task.shift=2", "method=simkd_own_head"]))
    assert projected(own_head).num_classes == 5
    with refused("needs-teacher"):
        with_projector(own_head, None)


@pytest.mark.parametrize(("method", "shift"), [("simkd", 0), ("simkd_own_head", 2)])
def test_a_run_trains_what_it_says_and_is_read_again(
    method: str,
    shift: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"task.shift={shift}", f"method={method}", "run.epochs=2", "teacher.train.epochs=2"]
    assert gkd("run", "cross_task/digits", *words, "--dry-run") == 0
    assert gkd("run", "cross_task/digits", *words) == 0
    (folder,) = [path.parent for path in tmp_path.rglob("summary.json") if method in str(path)]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["judged_by"] == "head"
    capsys.readouterr()
    assert gkd("eval", str(folder)) == 0
    assert f"last accuracy {summary['last']['accuracy']:.4g} " in capsys.readouterr().out
    loaded = load_network(folder / "student.safetensors").network
    assert isinstance(loaded, ProjectedNetwork)
    assert loaded.embedding_dim == 256
    if method == "simkd":
        (file,) = tmp_path.rglob("teachers/**/student.safetensors")
        teacher: Any = load_network(file).network
        assert torch.equal(
            loaded.head.weight, teacher.head.weight
        )  # the classes stand in the same order here
