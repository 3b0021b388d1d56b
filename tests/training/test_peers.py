"""Mutual learning in the training loop: the steps of plain loops, and the same bits after a stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from gkd.config.shipped import load_method
from gkd.data import Batches, Look
from gkd.distill.peers import Pair, states_of
from gkd.methods.method import Method
from gkd.models import build_network
from gkd.training.interrupt import Interrupted
from tests.refusals import refused
from tests.training_helpers import EAGER, SETTINGS, STEPS, Trainer, method_of, same

LR, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
EPOCHS = 5  # 20 steps


def two(peer: str = "resnet8") -> Pair:
    torch.manual_seed(3)
    return Pair(*(build_network(name, num_classes=3, in_channels=1) for name in ("resnet8", peer)))


def mutual(**optimiser: object) -> Method:
    options = {"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY, "schedule": "constant", **optimiser}
    return method_of(cross_entropy={}, mutual={}, optimiser=options)


def test_twenty_steps_are_those_of_plain_loops(trainer: Callable[..., Trainer]) -> None:
    """Two networks, two SGDs, the equations written out: the weights agree to what float32 holds."""
    run = trainer()
    networks = two(peer="resnet14")
    plain = two(peer="resnet14")
    found = run.fit(mutual(), {"one": EPOCHS}, student=networks)
    assert found.steps == 4 * EPOCHS == 20
    look = Look(SETTINGS.mean, SETTINGS.std, SETTINGS.augment)
    batches = Batches(
        run.problem.student.train, look, batch_size=SETTINGS.batch_size, seed=SETTINGS.seed, stage=0
    )
    optimisers = [
        torch.optim.SGD(each.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
        for each in (plain.student, plain.peer)
    ]
    plain.train()
    steps = 0
    for epoch in range(EPOCHS):
        for batch in batches.epoch(epoch):
            z1, z2 = plain.student(batch.images), plain.peer(batch.images)
            log1, log2 = z1.log_softmax(1), z2.log_softmax(1)
            p1, p2 = log1.exp().detach(), log2.exp().detach()
            losses = [
                F.nll_loss(log1, batch.labels) + (p2 * (p2.log() - log1)).sum(1).mean(),  # CE + KL(p2 || p1)
                F.nll_loss(log2, batch.labels) + (p1 * (p1.log() - log2)).sum(1).mean(),  # CE + KL(p1 || p2)
            ]
            for optimiser, loss in zip(optimisers, losses, strict=True):
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            steps += 1
    assert steps == 20
    for state, network in zip(states_of(found.last), (plain.student, plain.peer), strict=True):
        for name, expected in network.state_dict().items():
            torch.testing.assert_close(state[name], expected, rtol=1e-4, atol=1e-5, msg=name)


def test_both_learn_and_the_records_hold_both(trainer: Callable[..., Trainer]) -> None:
    found = trainer().fit(mutual(), {"one": 4}, student=two())
    names = {
        "loss",
        "loss/cross_entropy",
        "loss/mutual",
        "peer/loss",
        "peer/loss/cross_entropy",
        "peer/loss/mutual",
    }
    assert names <= found.records[0].keys()
    for name in ("loss/cross_entropy", "peer/loss/cross_entropy"):
        assert found.records[-1][name] < found.records[0][name]
    own = found.records[0]["loss/cross_entropy"] + found.records[0]["loss/mutual"]
    assert found.records[0]["loss"] == pytest.approx(own + found.records[0]["peer/loss"], rel=1e-5)


@pytest.mark.parametrize("stop", [STEPS + 2, 2 * STEPS])
def test_a_stop_changes_no_bit_of_either(trainer: Callable[..., Trainer], stop: int) -> None:
    whole = trainer("whole").fit(mutual(), {"one": 4}, student=two("wrn_16_1"))
    run = trainer("stopped")
    with pytest.raises(Interrupted):
        run.fit(
            mutual(), {"one": 4}, student=two("wrn_16_1"),
            at=lambda done: signal.raise_signal(signal.SIGINT) if done == stop else None,
        )  # fmt: skip
    torch.rand(7)
    rest = run.fit(mutual(), {"one": 4}, student=two("wrn_16_1"))
    assert rest.steps == 4 * STEPS - stop
    assert any(name.startswith("peer.") for name in rest.best)
    assert same(whole, rest)


class Death(Exception):
    """The process is gone."""


def test_a_death_without_warning_costs_only_what_was_not_saved(trainer: Callable[..., Trainer]) -> None:
    whole = trainer("whole").fit(mutual(), {"one": 3}, student=two())
    run = trainer("killed")

    def die(done: int) -> None:
        if done == STEPS + 3:
            raise Death

    with pytest.raises(Death):
        run.fit(mutual(), {"one": 3}, student=two(), settings=replace(EAGER), at=die)
    rest = run.fit(mutual(), {"one": 3}, student=two())
    assert rest.steps < 3 * STEPS
    assert same(whole, rest)


def test_one_student_cannot_be_trained_by_it(trainer: Callable[..., Trainer]) -> None:
    with refused("needs-peer"):
        trainer().fit(load_method("mutual"), {"train": 1})
