"""Stages on images without labels: what they train on, that a stop changes no bit, and what is refused before."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from gkd.core.batch import NO_LABEL
from gkd.data import ImageSet
from gkd.methods.method import Method
from gkd.problems.problem import Problem
from gkd.training.caches import Caches
from gkd.training.interrupt import Interrupted
from gkd.training.loop import check_method
from gkd.training.unlabelled import check_unlabelled
from tests.refusals import refused
from tests.training.test_stops import signalling
from tests.training_helpers import SETTINGS, STEPS, Trainer, same

MakeTrainer = Callable[..., Trainer]
MakeProblem = Callable[..., Problem]
BARE = 24  # images without labels


def bare(problem: Problem) -> ImageSet:
    images = problem.student.validation
    images = images.select(torch.arange(BARE) % len(images))
    return replace(images, labels=torch.full_like(images.labels, NO_LABEL))


def with_bare(problem: Problem) -> Problem:
    return replace(problem, unlabelled=bare(problem))


def stage(data: str, *, epochs: int = 2, **terms: Any) -> dict[str, Any]:
    optimiser = {"lr": 0.05, "schedule": "constant"}
    return {"epochs": epochs, "data": data, "terms": terms, "optimiser": optimiser, "select": "ncm"}


def method(**stages: dict[str, Any]) -> Method:
    return Method.model_validate({"name": "m", "paper": "ours", "summary": "", "stages": stages})


QUEUE = {"queue_similarity": {"queue": 16}}
FIRST = method(one=stage("unlabelled", **QUEUE), two=stage("labelled", cross_entropy={}))
BOTH = method(
    one=stage("both", **QUEUE, cross_entropy={}, crd={"negatives": 8}, tuples={"weight": 10}),
    two=stage("all", sp={}),
)


@pytest.mark.parametrize(
    ("plan", "length", "views"),
    [
        pytest.param(FIRST, BARE // 8, 2, id="unlabelled first, views kept"),
        pytest.param(BOTH, 2 * STEPS, None, id="both"),
        pytest.param(BOTH, 2 * STEPS, 2, id="both, views kept", marks=pytest.mark.full),
    ],
)
def test_a_stop_changes_no_bit(trainer: MakeTrainer, plan: Method, length: int, views: int | None) -> None:
    """An epoch is one pass over the unlabelled images, or on both over the labelled ones, half a batch of 8 a step."""
    settings, epochs = replace(SETTINGS, views=views), {"one": 2, "two": 2}

    def run_in(name: str) -> Trainer:
        run = trainer(name)
        run.problem = with_bare(run.problem)
        return run

    whole = run_in("whole").fit(plan, epochs, settings=settings)
    assert whole.steps == 2 * length + 2 * STEPS
    assert whole.position.images == 8 * whole.steps
    for stop in (length + 1, 2 * length):
        run = run_in(f"stopped at {stop}")
        with pytest.raises(Interrupted):
            run.fit(plan, epochs, settings=settings, at=signalling(signal.SIGTERM, stop))
        torch.rand(7)
        rest = run.fit(plan, epochs, settings=replace(settings, caches=Caches()))  # as in a new process
        assert rest.steps == whole.steps - stop
        assert same(whole, rest), stop


def test_unlabelled_images_train_the_student(trainer: MakeTrainer) -> None:
    """Other images without labels make another student; a stage that takes none is the same with and without."""
    ends = {}
    for name, seen in {
        "some": bare,
        "others": lambda problem: bare(problem).select(torch.arange(9)),
        "none": None,
    }.items():
        for plan in (BOTH, method(one=stage("all", cross_entropy={}))):
            if seen is None and plan is BOTH:
                continue
            run = trainer(f"{name}-{len(plan.stages)}")
            run.problem = run.problem if seen is None else replace(run.problem, unlabelled=seen(run.problem))
            outcome = run.fit(plan, dict.fromkeys(plan.stages, 1))
            ends[name, plan is BOTH] = torch.cat(
                [values.flatten().double() for values in outcome.last.values()]
            )
    assert not ends["some", True].equal(ends["others", True])
    assert ends["some", False].equal(ends["none", False])


def test_what_a_stage_cannot_train_on_is_refused(
    make_problem: MakeProblem, make_teacher: Callable[..., Any]
) -> None:
    problem = make_problem("abc", "bcd")
    teacher = make_teacher("abc")
    with refused("no-unlabelled-images"):
        problem.images("both", seed=0)
    with refused("no-unlabelled-images"):
        check_method(BOTH, teacher.network, teacher, problem)
    problem = with_bare(problem)
    check_method(BOTH, teacher.network, teacher, problem)
    with refused("too-few-images"):
        check_unlabelled("one", BOTH.stages["one"], problem, 64)
    alone, with_queue, beside, every, queued = (
        method(one=content).stages["one"]
        for content in (
            stage("unlabelled", kd={}),
            stage("unlabelled", kd={}, **QUEUE),
            stage("both", kd={}, cross_entropy={}),
            stage("unlabelled", kd={"rows": "all"}),
            stage("both", kd={}, **QUEUE),
        )
    )
    for each in (alone, with_queue, beside):
        with refused("no-term-without-labels"):
            check_unlabelled("one", each, problem, 8)
    check_unlabelled("one", every, problem, 8)
    check_unlabelled("one", queued, problem, 8)
    check_unlabelled(
        "one", alone, with_bare(make_problem("abc", "abc")), 8
    )  # whose classes the teacher all has
