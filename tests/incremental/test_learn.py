"""train_step from Python: networks, images and options, no config and no folder; a method without its teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from gkd.config.shipped import load_method, shipped_methods
from gkd.core.batch import NO_LABEL
from gkd.data import ImageSet
from gkd.incremental.learn import Learnt, train_step, without_teacher
from gkd.incremental.memory import Memory
from gkd.incremental.problem import IncrementalProblem, step_problems
from gkd.incremental.scenario import class_steps
from gkd.incremental.step import Rehearsal
from gkd.models import build_network
from gkd.problems.problem import Source
from gkd.training.progress import Reporter
from gkd.training.settings import Settings
from tests.config_helpers import IN_EPISODES, two_stages
from tests.refusals import refused

METHODS = shipped_methods()
SETTINGS = Settings(
    seed=0, batch_size=16, augment="none", mean=(0.5,), std=(0.25,), device=torch.device("cpu"),
    dtype=torch.float32,
)  # fmt: skip


@pytest.fixture
def steps(make_set: Callable[..., ImageSet]) -> list[IncrementalProblem]:
    """Six classes, two a step, four exemplars of each."""
    images = Source(*(make_set("abcdef", num, seed=seed) for seed, num in enumerate((96, 24, 48))))
    classes = class_steps(images.space, base=2, increment=2)
    return list(step_problems(images, classes, rehearsal=Rehearsal(memory_per_class=4)))


def network(num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    return build_network("resnet8", num_classes=num_classes, in_channels=1)


def learn(problem: IncrementalProblem, student: nn.Module, method: str, **options: object) -> Learnt:
    with Reporter(Console(quiet=True), "steps") as reporter:
        return train_step(
            problem, student, load_method(method), SETTINGS, folder=None, reporter=reporter, epochs=4, **options  # type: ignore[arg-type]
        )  # fmt: skip


def test_three_steps_from_python(steps: list[IncrementalProblem]) -> None:
    student, memory, accuracies = network(2), Memory({}), []
    for problem in steps:
        before = {name: value.clone() for name, value in student.state_dict().items()}
        learnt = learn(problem.remembering(memory), student, "icarl")
        student, memory = learnt.student, learnt.answers.memory
        assert learnt.teacher is None or all(
            torch.equal(value, before[name]) for name, value in learnt.teacher.network.state_dict().items()
        ), "the teacher is the network as it was before it grew"
        assert (learnt.teacher is None) == (problem.step.number == 0)
        assert learnt.problem.student.train.class_counts().tolist()[: problem.step.num_old] == [4] * (
            problem.step.num_old
        )
        labels = problem.student.test.labels
        accuracies.append(float((learnt.scores().argmax(1) == labels).float().mean()))
    assert [len(samples) for samples in memory.exemplars.values()] == [4] * 6
    assert student.head.out_features == 6  # type: ignore[union-attr]
    assert accuracies[-1] > 0.5


def test_images_without_labels_stand_beside_each_steps(steps: list[IncrementalProblem]) -> None:
    """The first step, which has no teacher to use them by, does without; the next are of its images and of these."""
    images = steps[0].student.validation.select(torch.arange(8).repeat(3))
    bare = replace(images, labels=torch.full_like(images.labels, NO_LABEL))
    student, memory = network(2), Memory({})
    for problem in steps[:2]:
        learnt = learn(replace(problem, unlabelled=bare).remembering(memory), student, "unlabelled_both")
        student, memory = learnt.student, learnt.answers.memory
        (stage,) = learnt.method.stages.values()
        first = problem.step.number == 0
        assert stage.data == ("all" if first else "both")
        assert learnt.position.images == 4 * (
            32 if first else 16 * (40 // 8)
        )  # 32 new images, later 8 exemplars


def test_a_step_that_starts_afresh_wants_its_teacher(steps: list[IncrementalProblem]) -> None:
    fresh = replace(steps[1], step=replace(steps[1].step, fresh=True))
    with refused("needs-teacher"):
        learn(fresh, network(4), "lwf")


@pytest.mark.parametrize("name", METHODS)
def test_what_remains_of_a_method_without_a_teacher(name: str) -> None:
    method = METHODS[name]
    first = without_teacher(method)
    assert not first.needs_teacher
    assert first.trains_head or name in IN_EPISODES
    for stage_name, stage in first.stages.items():
        whole = method.stages[stage_name]
        assert stage.optimiser == whole.optimiser
        assert stage.data != "balanced-memory"
        kept = {
            key: term
            for key, term in whole.terms.items()
            if not term.needs_teacher and term.head != "auxiliary"
        }
        assert stage.terms == (kept or stage.terms)
    if not method.needs_teacher and name != "der":
        assert first.stages == method.stages


def test_a_first_step_is_cross_entropy_where_nothing_else_remains() -> None:
    alone = two_stages(terms={"sp": {}})
    alone = alone.model_copy(update={"stages": {"two": alone.stages["two"]}})
    (stage,) = without_teacher(alone).stages.values()
    assert [term.loss for term in stage.terms.values()] == ["cross_entropy"]
    assert list(without_teacher(METHODS["podnet"]).stages) == ["distil"]
    assert list(without_teacher(METHODS["podnet"]).stages["distil"].terms) == ["nca"]
    assert list(without_teacher(METHODS["refilled"]).stages) == ["classifier"]
    assert list(without_teacher(METHODS["der"]).stages["expand"].terms) == ["cross_entropy"]
