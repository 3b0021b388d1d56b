"""Steps of an incremental run: what is remembered, what is held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from gkd.data import ImageSet
from gkd.incremental.memory import Memory, choose_exemplars, samples_of
from gkd.incremental.step import Rehearsal, Step, hold_out, remember
from tests.refusals import refused

STEPS = (("a", "b"), ("c",), ("d", "e"))


@pytest.fixture
def images(make_set: Callable[..., ImageSet]) -> ImageSet:
    return make_set("abcde", 50)


def embedding(samples: torch.Tensor) -> torch.Tensor:
    return torch.randn(50, 8, generator=torch.Generator().manual_seed(0))[samples]


def after(number: int, images: ImageSet, rehearsal: Rehearsal, memory: Memory | None = None) -> Memory:
    step = Step(number, STEPS, images, rehearsal, memory=memory or Memory({}))
    pool = torch.cat([samples_of(images, step.lacking()), step.memory.samples])
    return remember(step, pool, embedding(pool), seed=0)


def test_a_step_knows_its_classes(images: ImageSet) -> None:
    step = Step(1, STEPS, images)
    assert (step.new, list(step.seen), step.num_old) == (("c",), list("abc"), 2)
    assert step.lacking() == list("abc")
    assert not step.remembers()
    assert step.new_images().class_counts().tolist() == [0, 0, 10]
    assert step.seen_images().class_counts().tolist() == [10] * 3


def test_exemplars_of_the_new_classes_join_the_first_of_the_old_ones(images: ImageSet) -> None:
    rehearsal = Rehearsal(memory_total=12)
    first = after(0, images, rehearsal)
    second = after(1, images, rehearsal, first)
    assert {name: len(samples) for name, samples in first.exemplars.items()} == {"a": 6, "b": 6}
    assert {name: len(samples) for name, samples in second.exemplars.items()} == {"a": 4, "b": 4, "c": 4}
    assert second.exemplars["a"].tolist() == first.exemplars["a"][:4].tolist()
    own = samples_of(images, ["c"])
    chosen = choose_exemplars(images, ["c"], 4, samples=own, embedding=embedding(own))
    assert second.exemplars["c"].tolist() == chosen["c"].tolist()


def test_a_model_that_was_given_has_exemplars_of_all_its_classes(images: ImageSet) -> None:
    memory = after(1, images, Rehearsal(memory_per_class=3))
    assert {name: len(samples) for name, samples in memory.exemplars.items()} == {"a": 3, "b": 3, "c": 3}


def test_mistakes_are_named(images: ImageSet) -> None:
    with refused("no-such-step"):
        Step(3, STEPS, images)
    with refused("budgets-not-together"):
        Rehearsal(memory_total=10, memory_per_class=2)
    with refused("memory-out-of-range"):
        Rehearsal(memory_per_class=0)
    with refused("unknown-selection-of-exemplars"):
        Rehearsal(memory_total=10, selection="x")


def test_without_a_budget_nothing_is_remembered(images: ImageSet) -> None:
    assert len(after(0, images, Rehearsal())) == 0


def test_what_is_held_out_is_balanced_and_the_last_of_the_old(images: ImageSet) -> None:
    memory = after(0, images, Rehearsal(memory_per_class=5))
    step = Step(1, STEPS, images, Rehearsal(memory_per_class=5), memory=memory)
    held = hold_out(step, 0.4, seed=0)
    assert step.chosen(held).class_counts().tolist() == [2, 2, 2]
    assert held[:2].tolist() == memory.exemplars["a"][-2:].tolist()
    assert len(hold_out(step, 0.01, seed=0)) == 3
    single = replace(step, memory=memory.cut(1))
    with refused("too-few-exemplars"):
        hold_out(single, 0.1, seed=0)


def test_no_stage_trains_on_what_is_held_out(images: ImageSet) -> None:
    memory = after(0, images, Rehearsal(memory_per_class=5))
    step = Step(1, STEPS, images, Rehearsal(memory_per_class=5), memory=memory)
    assert step.rehearsed_images().class_counts().tolist() == [5, 5, 10]
    less = replace(step, held_out=hold_out(step, 0.4, seed=0))
    assert less.rehearsed_images().class_counts().tolist() == [3, 3, 8]
    assert less.new_images().class_counts().tolist() == [0, 0, 8]
    assert less.seen_images().class_counts().tolist() == [8, 8, 8]
