"""learn_step(): one incremental step on the caller's network and images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from gkd.config.shipped import load_method
from gkd.data import ImageSet
from gkd.incremental import Memory, Rehearsal, Step, StepOutcome, class_steps, learn_step
from gkd.models import build_network
from gkd.models.taps import tap
from tests.network_helpers import Behind
from tests.refusals import refused

WORDS: dict[str, Any] = {
    "epochs": 15,
    "batch_size": 16,
    "precision": "float32",
    "optimiser": {"lr": 0.05, "schedule": "cosine", "milestones": []},
}


@pytest.fixture
def step(make_set: Callable[..., ImageSet]) -> Step:
    images = make_set(("a", "b", "c", "d"), 96)
    steps = class_steps(images.space, base=2, increment=2)
    return Step(0, steps, images, Rehearsal(memory_per_class=5))


def two_steps(first: Step, test: ImageSet, method: str) -> tuple[StepOutcome, StepOutcome]:
    torch.manual_seed(0)
    network = build_network("resnet8", num_classes=2, in_channels=1)
    before = learn_step(network, first, method, test=test, **WORDS)
    second = replace(first, number=1, memory=before.memory)
    return before, learn_step(before.student, second, method, test=test, **WORDS)


def test_a_step_grows_out_of_the_one_before(step: Step, make_set: Callable[..., ImageSet]) -> None:
    test = make_set(("a", "b", "c", "d"), 40, seed=5)
    before, after = two_steps(step, test, "wa")
    assert before.accuracy is not None
    assert after.accuracy is not None
    assert before.accuracy > 80  # chance is 50
    assert after.accuracy > 40  # chance is 25
    assert before.student.num_classes == 2  # what it grew out of is as it was
    assert after.student.num_classes == 4
    assert set(before.memory.exemplars) == {"a", "b"}
    assert {name: len(samples) for name, samples in after.memory.exemplars.items()} == dict.fromkeys(
        "abcd", 5
    )
    assert before.rules == {}
    assert set(after.rules) == {"align-weights"}


def test_the_same_step_has_the_same_bits_and_needs_no_test(step: Step) -> None:
    torch.manual_seed(0)
    network = build_network("resnet8", num_classes=2, in_channels=1)
    states = [learn_step(network, step, "finetune", **WORDS).student.state_dict() for _ in range(2)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["conv1.weight"], network.state_dict()["conv1.weight"])
    assert learn_step(network, step, "finetune", **WORDS).accuracy is None


def test_mistakes_are_named(step: Step) -> None:
    network = build_network("resnet8", num_classes=3, in_channels=1)
    with refused("other-classes"):
        learn_step(network, step, **WORDS)
    forgetful = replace(step, rehearsal=Rehearsal(), memory=Memory({}))
    fitting = build_network("resnet8", num_classes=2, in_channels=1)
    with refused("needs-memory"):
        learn_step(fitting, forgetful, "wa", **WORDS)


def test_images_without_labels_teach_a_later_step(step: Step, make_set: Callable[..., ImageSet]) -> None:
    words = {**WORDS, "epochs": 1}
    bare, others = (make_set(("x", "y"), 24, seed=seed) for seed in (7, 8))  # their labels are not read
    torch.manual_seed(0)
    network = build_network("resnet8", num_classes=2, in_channels=1)
    before = learn_step(network, step, "unlabelled_both", unlabelled=bare, **words)
    second = replace(step, number=1, memory=before.memory)
    after = [
        learn_step(before.student, second, "unlabelled_both", unlabelled=images, **words).student.state_dict()
        for images in (bare, bare, others)
    ]
    assert all(torch.equal(value, after[1][name]) for name, value in after[0].items())
    assert not torch.equal(after[0]["conv1.weight"], after[2]["conv1.weight"])
    with refused("no-unlabelled-images"):
        learn_step(before.student, second, "unlabelled_both", **words)
    small = replace(bare, images=bare.images[:, :, :4])
    with refused("other-image-shape"):
        learn_step(before.student, second, "unlabelled_both", unlabelled=small, **words)


@pytest.mark.parametrize(
    ("kind", "taps", "method"),
    [
        ("mean", {}, "finetune"),
        ("scale", {}, "finetune"),
        ("plain", {"embedding": "conv", "maps": []}, "finetune"),  # averaged before the ReLU
        ("mean", {}, "der"),  # whose head starts from the one head
    ],
)
def test_a_head_that_does_not_give_the_logits_is_not_grown(
    step: Step, kind: str, taps: dict[str, Any], method: str
) -> None:
    network = tap(Behind(kind), **taps)
    with refused("head-gives-not-the-logits"):
        learn_step(network, step, method, **WORDS)


def test_a_network_that_starts_afresh_in_every_step_need_not_grow(step: Step) -> None:
    network = tap(Behind("mean"))
    learnt = learn_step(network, replace(step, fresh=True), "finetune", **{**WORDS, "epochs": 1})
    assert learnt.student.num_classes == 2
    with refused("head-gives-not-the-logits"):  # weight alignment changes the one head
        learn_step(network, replace(step, fresh=True), "wa", **WORDS)


def test_a_new_class_of_which_all_images_would_be_held_out_is_refused(
    make_set: Callable[..., ImageSet],
) -> None:
    images = make_set(("a", "b", "c", "d"), 96)
    rare = (images.labels == 3).nonzero().flatten()[2:]  # two images of the last class are left
    images = images.select(torch.arange(96)[~torch.isin(torch.arange(96), rare)])
    first = Step(0, class_steps(images.space, base=2, increment=2), images, Rehearsal(memory_per_class=5))
    network = build_network("resnet8", num_classes=2, in_channels=1)
    method = load_method("bic").model_copy(update={"held_out": 0.4})
    with refused("too-few-images"):
        learn_step(network, first, method, **WORDS)
