"""A task from elsewhere: its own judging, and a sequence of problems over the same classes on other images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import ImageSet
from gkd.incremental import sequence
from gkd.incremental.sequence import solve_sequence
from gkd.problems.judging import Judging, Outputs, Verdict
from gkd.problems.problem import Problem, Source
from gkd.problems.task import Task, TaskOptions
from gkd.storage.records import read_record
from gkd.storage.run_results import RunSummary
from gkd.storage.weights import read_weights, tensors_hash
from tests.cli_helpers import gkd

CONFIG = """
task: {name: domains, domains: 2}
data: {name: digits, validation: {per_class: 20}, batch_size: 64, augment: none}
student: {network: resnet8}
method: METHOD
run: {epochs: 2, precision: float32, threads: 1}
"""


class WorstClass(Judging):
    """The accuracy of the class that is answered worst."""

    def validate(self, outputs: Outputs, images: Source, select: str) -> tuple[str, float]:
        return "worst", _worst(outputs, images.validation)

    def judge(self, outputs: Outputs, images: Source) -> Verdict:
        return Verdict({"worst": _worst(outputs, images.test)})


def _worst(outputs: Outputs, images: ImageSet) -> float:
    labels = images.labels.cpu()
    right = outputs(images)[0].argmax(1) == labels
    return min(100 * float(right[labels == column].float().mean()) for column in range(len(images.space)))


class DomainOptions(TaskOptions):
    name: Literal["domains"] = "domains"
    domains: int = 2


class Domains(Task):
    """The same classes as they are, then as negatives, and so on."""

    Options = DomainOptions
    students_teach = True
    solver = solve_sequence

    def spaces(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        return LabelRelation(student, student)

    def problems(self, teacher: Source, student: Source, seed: int = 0) -> Iterator[Problem]:
        for number in range(self.options.domains):
            parts = (student.train, student.validation, student.test)
            images = Source(*(_domain(part, number) for part in parts))
            relation = self.spaces(images.space, images.space)
            yield Problem(f"domain-{number + 1}", relation, images, images, judging=WorstClass())


def _domain(images: ImageSet, number: int) -> ImageSet:
    assert isinstance(images.images, torch.Tensor)
    return replace(images, images=255 - images.images) if number % 2 else images


@pytest.fixture(autouse=True)
def _the_task_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offer: Callable[..., None]
) -> None:
    monkeypatch.chdir(tmp_path)
    offer("gkd.tasks", ("domains", f"{__name__}:Domains"))


def run(method: str) -> Path:
    """The folder of the run, which is made or continued."""
    Path("domains.yaml").write_text(CONFIG.replace("METHOD", method))
    assert gkd("run", "domains.yaml") == 0
    (folder,) = Path("runs").glob(f"domains/{method}-*/seed0")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_weights(folder / "student.safetensors")[0]


def test_each_student_starts_from_the_one_before_and_is_judged_by_the_tasks_own_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[dict[str, torch.Tensor]] = []
    fit = sequence.fit

    def noted(student: Any, *more: Any) -> Any:
        starts.append({name: value.clone() for name, value in student.state_dict().items()})
        return fit(student, *more)

    monkeypatch.setattr(sequence, "fit", noted)
    folder = run("kd")  # which needs a teacher: the first student goes without
    first, second = folder / "problems" / "1", folder / "problems" / "2"
    assert tensors_hash(starts[1]) == tensors_hash(weights(first)) != tensors_hash(weights(second))
    assert tensors_hash(weights(folder)) == tensors_hash(weights(second))
    summary = read_record(folder / "summary.json", RunSummary)
    taught = read_record(second / "summary.json", RunSummary).teacher
    assert read_record(first / "summary.json", RunSummary).teacher is None
    assert taught is not None
    assert taught.hash is not None
    assert set(summary.last.metrics) == {
        "worst",
        "accuracy/domain-1",
        "accuracy/domain-2",
        "average_accuracy",
    }
    assert summary.last.metrics["worst"] <= summary.last.accuracy == summary.last.metrics["accuracy/domain-2"]
    assert set(summary.best.metrics) == {"worst"}
    records = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert summary.best.validation == pytest.approx(
        max(record["validation/worst"] for record in records), abs=1e-3
    )

    # It is continued in the problem that is not finished, and ends with the same bits.
    expected = tensors_hash(weights(folder))
    (folder / "summary.json").unlink()
    shutil.rmtree(second)
    assert run("kd") == folder
    assert len(starts) == 3
    assert tensors_hash(starts[2]) == tensors_hash(starts[1])
    assert tensors_hash(weights(folder)) == expected
    assert gkd("eval", str(folder)) == 0
