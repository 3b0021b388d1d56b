"""Incremental: which classes and images each step has, what is refused, and that one step is a cross-task problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from gkd.config.layers import Layer
from gkd.config.resolve import resolve
from gkd.config.schema import Data, Validation
from gkd.core.batch import Batch
from gkd.core.labels import LabelSpace
from gkd.data import ImageSet
from gkd.distill.teacher import Teacher
from gkd.experiment.prepare import prepare
from gkd.experiment.sources import load_source
from gkd.incremental.memory import Memory, samples_of
from gkd.incremental.problem import IncrementalProblem, as_incremental
from gkd.models import build_network
from gkd.problems.problem import Problem, Source
from gkd.problems.task import TASKS, students_teach
from gkd.tasks.cross_task import CrossTask, CrossTaskOptions
from gkd.tasks.incremental import IncrementalOptions, IncrementalTask
from gkd.training.loop import fit
from gkd.training.progress import Reporter
from tests.refusals import refused


@pytest.fixture
def source(make_set: Callable[..., ImageSet]) -> Source:
    """Seven classes in all three parts."""
    return Source(*(make_set("abcdefg", num, seed=seed) for seed, num in enumerate((70, 35, 21))))


def problems(source: Source, seed: int = 0, **options: Any) -> list[IncrementalProblem]:
    options = {"base": 3, "increment": 2, **options}
    return list(IncrementalTask(IncrementalOptions(**options)).problems(source, source, seed))


def test_it_is_found_by_entry_point_and_its_students_teach() -> None:
    assert TASKS["incremental"].load() is IncrementalTask
    assert students_teach("incremental")
    assert not students_teach("cross_task")


def test_a_problem_a_step_and_every_class_arrives(source: Source) -> None:
    found = problems(source)
    assert [problem.name for problem in found] == ["step-1", "step-2", "step-3"]
    assert ["".join(problem.relation.teacher) for problem in found] == ["abc", "abc", "abcde"]
    assert ["".join(problem.relation.student) for problem in found] == ["abc", "abcde", "abcdefg"]
    assert [len(problem.old_classes) for problem in found] == [0, 3, 5]
    assert {problem.rows for problem in found} == {"all"}
    remainder = problems(source, base=3, increment=3)
    assert [len(problem.relation.student) for problem in remainder] == [3, 6, 7]


def test_steps_of_folders(make_set: Callable[..., ImageSet]) -> None:
    space = LabelSpace(["1/a", "1/b", "2/a", "2/c", "3/d"])
    images = replace(make_set("abcde", 20), space=space)
    found = problems(Source(images, images, images), base=None, increment=None, steps="folders")
    assert [problem.step.new for problem in found] == [
        ("1/a", "1/b"),
        ("2/a", "2/c"),
        ("3/d",),
    ]


def test_a_step_trains_on_its_own_classes_and_is_judged_on_all_so_far(source: Source) -> None:
    _, second, _ = problems(source)
    assert second.student.train.class_counts().tolist() == [0, 0, 0, 10, 10]
    assert second.student.validation.class_counts().tolist() == [5] * 5
    assert second.student.test.class_counts().tolist() == [3] * 5
    assert second.teacher.test.class_counts().tolist() == [3] * 3
    assert second.images("new", seed=0).fingerprint() == second.student.train.fingerprint()
    assert second.images("seen", seed=0).class_counts().tolist() == [10] * 5


def test_labels_keep_their_columns_whatever_the_order(source: Source) -> None:
    found = problems(source, order="1993")
    names = list(found[-1].student.space)
    assert names != sorted(names)
    for problem in found:
        assert list(problem.student.space) == names[: len(problem.student.space)]
        step = problem.step
        given = source.train.restrict(step.seen)
        assert step.seen_images().fingerprint() == given.fingerprint()


def test_the_order_may_be_the_runs_seed(source: Source) -> None:
    def order(seed: int) -> list[str]:
        return list(problems(source, seed, order="seed")[-1].student.space)

    assert order(3) == list(problems(source, order=3)[-1].student.space)
    assert order(3) != order(4)


def test_explicit_steps(source: Source) -> None:
    steps = [["g", "b"], [0, 2], ["d", "e", "f"]]
    found = problems(source, base=None, increment=None, steps=steps)
    assert ["".join(problem.student.space) for problem in found] == ["gb", "gbac", "gbacdef"]


def test_exemplars_stand_behind_the_new_images_as_numbers(source: Source) -> None:
    step = problems(source, memory_per_class=2)[1].step
    samples = samples_of(step.images, ["a"])[:2]
    images = step.with_memory(Memory({"a": samples}))
    chosen = images.chosen(torch.cat([samples_of(step.images, step.new), samples]))
    assert chosen.class_counts().tolist() == [2, 0, 0, 10, 10]
    assert chosen.labels[-2:].tolist() == [0, 0]
    assert torch.equal(chosen.images[-2:], step.images.images[samples])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"memory_total": 5, "memory_per_class": 1}, "memory_total or memory_per_class, not both"),
        ({"increment": None}, "base and increment"),
        ({"steps": [["a"], ["b"]]}, "not both"),
        ({"steps": "folders"}, "not both"),
        ({"selection": "herd"}, "Did you mean 'herding'"),
        ({"memory_per_class": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        IncrementalOptions(**{"base": 3, "increment": 2, **options})


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"base": 6}, "too-few-classes"),
        ({"memory_total": 6}, "memory-out-of-range"),
        ({"order": ["a", "b", "c", "d", "e", "f", "a"]}, "class-twice"),
        ({"order": list("abcdef")}, "class-missing"),
        ({"order": list("abcdefh")}, "unknown-class"),
        ({"start_from": 3}, "start-from-out-of-range"),
    ],
)
def test_scenarios_that_cannot_be(source: Source, options: dict[str, Any], code: str) -> None:
    with refused(code):
        problems(source, **options)


def experiment(*overrides: str, **task: Any) -> Any:
    content = {
        "task": {"name": "incremental", "base": 5, "increment": 5, **task},
        "data": {"name": "digits", "validation": {"per_class": 20}, "batch_size": 64, "augment": "crop"},
        "student": {"network": "resnet8"},
        "method": "replay",
        "run": {"epochs": 2, "precision": "float32", "threads": 1},
    }
    return resolve("test", [Layer("experiment", content)]).with_overrides(overrides)


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        (["method=icarl"], "needs-memory"),
        (["method=sp", "method.judge=ncm"], "needs-memory"),
        (["method=sp", "student.checkpoint=x.safetensors"], "student-checkpoint"),
        (["method=sp", "data.teacher_view={image_size: 16}"], "teacher-sees-others"),
        (["method=sp", "task.steps=[[0, 1], [2, 3, 4], [5, 6, 7, 8, 9]]", "task.base=null", "task.increment=null",
          "task.start_from=2"], "needs-teacher"),
        (["method=kd", "task.base=1"], "method-not-applicable"),
        (["method=wa", "task.memory_per_class=9", "student.options={head: cosine}"],
          "needs-linear-head"),
        (["method=bic", "task.memory_per_class=9", "student.options={head: proxy}"],
          "needs-linear-head"),
        (["method=bic", "task.memory_per_class=1"], "too-few-exemplars"),
        (["method=bic", "task.memory_total=15", "task.base=8", "task.increment=1"], "too-few-exemplars"),
        (["method=sp", "method.growth.old=frozen"], "needs-cosine-head"),
    ],
)  # fmt: skip
def test_what_an_incremental_run_cannot_have(overrides: list[str], code: str) -> None:
    with refused(code):
        prepare(experiment(*overrides))


def test_a_limit_of_images_a_class_holds_for_every_step() -> None:
    prepared = prepare(experiment("data.per_class=30", "method=finetune"))
    assert prepared.problem.student.train.class_counts().tolist() == [30] * 5
    assert as_incremental(prepared.problem).step.images.class_counts().tolist() == [30] * 10


@pytest.fixture
def one_step() -> tuple[Problem, Problem]:
    """The same distillation by both adapters: five digits known, five new, images of the new ones alone."""
    source = load_source(Data(name="digits", validation=Validation(per_class=20)))
    options = IncrementalOptions(base=5, increment=5, order="7", fresh_student=True)
    _, step = IncrementalTask(options).problems(source, source)
    old, everything = ({"names": list(space)} for space in (step.relation.teacher, step.relation.student))
    (cross,) = CrossTask(CrossTaskOptions(teacher_classes=old, student_classes=everything)).problems(
        source, source
    )
    new = torch.nonzero(~cross.relation.known[cross.student.train.labels]).flatten()
    own = replace(cross.student, train=cross.student.train.select(new))
    return step, replace(cross, student=own, rows="all")


def test_one_step_is_a_cross_task_problem(one_step: tuple[Problem, Problem]) -> None:
    step, cross = one_step
    for side in ("teacher", "student"):
        assert getattr(step.relation, side) == getattr(cross.relation, side)
        for part in ("train", "validation", "test"):
            ours, theirs = (getattr(getattr(problem, side), part) for problem in one_step)
            assert ours.fingerprint() == theirs.fingerprint(), (side, part)
    assert step.rows == cross.rows
    for data in ("all", "held-out", "balanced", "episodes"):
        assert step.images(data, seed=0).fingerprint() == cross.images(data, seed=0).fingerprint()


@pytest.mark.parametrize("method", ["refilled", "icarl_softmax", "lwf", "sp"])
def test_one_step_ends_with_the_bits_of_the_cross_task(
    method: str, one_step: tuple[Problem, Problem], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    prepared = prepare(experiment(f"method={method}", memory_per_class=1, fresh_student=True))
    torch.manual_seed(5)
    old = build_network("resnet14", num_classes=5, in_channels=1)
    mean, std = prepared.settings.mean, prepared.settings.std
    found = []
    for name, problem in zip(("step", "cross"), one_step, strict=True):
        torch.manual_seed(0)
        student = build_network("resnet8", num_classes=10, in_channels=1)
        teacher = Teacher(old, problem.relation.teacher, mean=mean, std=std)
        with Reporter(Console(), name) as reporter:
            last, best, _ = fit(
                student,
                teacher,
                problem,
                prepared.experiment.method,
                prepared.epochs,
                prepared.settings,
                tmp_path / name,
                reporter,
            )
        found.append((last, best))
    for ours, theirs in zip(*found, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_without_a_teacher_old_classes_are_known_all_the_same(one_step: tuple[Problem, Problem]) -> None:
    """Finetune has no teacher, and its loss is over the new columns: the old ones get no gradient."""
    from gkd.training.stage_run import Position
    from gkd.training.stage_run import StageRun as _StageRun

    step, _ = one_step
    prepared = prepare(experiment("method=finetune"))
    torch.manual_seed(0)
    student = build_network("resnet8", num_classes=10, in_channels=1)
    (stage,) = prepared.experiment.method.stages.values()
    run = _StageRun("train", stage, 1, student, None, step, prepared.settings, Position())
    assert run.distiller.known.tolist() == [True] * 5 + [False] * 5
    batch: Batch = next(iter(run.batches.epoch(0)))
    run.distiller(batch)["loss"].backward()
    assert student.fc.bias.grad[:5].abs().sum() == 0
    assert student.fc.bias.grad[5:].abs().sum() > 0
