"""A stopped run goes on to the same bits, whatever it was in the middle of."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gkd.config.shipped import load_method
from gkd.core.network import Features
from gkd.methods.method import Method
from gkd.models import ResNet
from gkd.storage.checkpoints import latest_checkpoint
from gkd.training.caches import Caches
from gkd.training.interrupt import Interrupted
from tests.training_helpers import EAGER, EPOCHS, SETTINGS, STEPS, TOTAL, Trainer, method_of, same


def signalling(number: int, stop: int) -> Callable[[int], object]:
    """What raises a signal after a step."""
    return lambda done: signal.raise_signal(number) if done == stop else None


# A foreign optimiser: steps by the sign of a running mean of the gradients, which is its state.
SIGN = """
import torch

class Sign(torch.optim.Optimizer):
    def __init__(self, params, lr, weight_decay=0.0, keep=0.9):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "keep": keep})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["keep"])
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * mean.sign())
"""


@pytest.mark.parametrize("views", [None, 2])
def test_a_signal_and_a_second_start_change_no_bit(
    trainer: Callable[..., Trainer], views: int | None
) -> None:
    """In either stage, within an epoch, between epochs, between stages, and at the very end."""
    settings, method = replace(SETTINGS, views=views), load_method("refilled")
    whole = trainer("whole").fit(method, EPOCHS, settings=settings)
    handler = signal.getsignal(signal.SIGINT)
    for stop in (1, STEPS, STEPS + 2, 2 * STEPS, 3 * STEPS - 1, TOTAL):
        run = trainer(f"stopped at {stop}")
        with pytest.raises(Interrupted, match="everything is saved"):
            run.fit(method, EPOCHS, settings=settings, at=signalling(signal.SIGINT, stop))
        assert signal.getsignal(signal.SIGINT) is handler
        found = latest_checkpoint(run.folder / "checkpoints")
        assert found is not None
        assert found.facts["global_step"] == stop
        torch.rand(7)
        rest = run.fit(method, EPOCHS, settings=replace(settings, caches=Caches()))  # as in a new process
        assert rest.steps == TOTAL - stop
        assert same(whole, rest), stop


@pytest.mark.parametrize("name", ["AdamW", "plain_sign:Sign"])
def test_any_optimiser_goes_on_after_a_stop(
    trainer: Callable[..., Trainer], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain_sign.py").write_text(SIGN)
    monkeypatch.syspath_prepend(tmp_path)
    method = method_of(cross_entropy={}, optimiser={"name": name, "lr": 0.001})
    whole = trainer("whole").fit(method, {"one": 2})
    run = trainer("stopped")
    with pytest.raises(Interrupted):
        run.fit(method, {"one": 2}, at=signalling(signal.SIGINT, 5))
    rest = run.fit(method, {"one": 2})
    assert rest.steps == 2 * STEPS - 5
    assert same(whole, rest)


@pytest.mark.parametrize("views", [None, 2])
def test_episodic_training_goes_on_after_a_stop(trainer: Callable[..., Trainer], views: int | None) -> None:
    """Within an epoch of episodes, between epochs, and in a stage on shuffled images before them."""
    episodes = {"ways": 2, "shots": 1, "queries": 2, "per_epoch": 6}
    terms: dict[str, Any] = {"prototype": {}, "episode_induced": {}, "tuples": {"weight": 10}}
    stages = {
        "images": {"epochs": 2, "terms": {"cross_entropy": {}}},
        "episodes": {"epochs": 2, "terms": terms, "data": "episodes", "episodes": episodes, "select": "ncm"},
    }
    method = Method.model_validate({"name": "m", "paper": "ours", "summary": "", "stages": stages})
    settings, epochs = replace(SETTINGS, views=views), {"images": 2, "episodes": 2}
    whole = trainer("whole").fit(method, epochs, settings=settings)
    assert whole.steps == 2 * STEPS + 2 * 6
    assert whole.position.images == 2 * 32 + 2 * 6 * 6
    for stop in (5, 8, 11, 14, 17):
        run = trainer(f"stopped at {stop}")
        with pytest.raises(Interrupted):
            run.fit(method, epochs, settings=settings, at=signalling(signal.SIGTERM, stop))
        torch.manual_seed(123)
        rest = run.fit(method, epochs, settings=replace(settings, caches=Caches()))  # as in a new process
        assert rest.steps == whole.steps - stop
        assert same(whole, rest), stop


def test_a_death_without_warning_costs_only_what_was_not_saved(trainer: Callable[..., Trainer]) -> None:
    method = load_method("refilled")
    whole = trainer("whole").fit(method, EPOCHS)
    for stop in (3, STEPS + 1, 2 * STEPS + 2):
        run = trainer(f"killed at {stop}")

        def die(done: int, stop: int = stop) -> None:
            if done == stop:
                raise RuntimeError("killed")

        with pytest.raises(RuntimeError, match="killed"):
            run.fit(method, EPOCHS, settings=EAGER, at=die)
        damaged = latest_checkpoint(run.folder / "checkpoints")
        assert damaged is not None
        (damaged.folder / "state.pt").write_bytes(b"half")  # the disk took the newest one along
        assert same(whole, run.fit(method, EPOCHS)), stop


class Dropping(ResNet):
    """A student with randomness of its own."""

    def features(self, images: Tensor, *, preact: bool = False) -> Features:
        features = super().features(images, preact=preact)
        embedding = torch.dropout(features.embedding, 0.5, self.training)
        return replace(features, logits=self.fc(embedding))


def test_the_students_own_randomness_and_the_optimisers_state_go_on(trainer: Callable[..., Trainer]) -> None:
    method = method_of(cross_entropy={}, optimiser={"name": "adamw", "lr": 0.01, "clip_norm": 1.0})

    def student() -> nn.Module:
        torch.manual_seed(1)
        return Dropping(8, (16, 16, 32, 64), num_classes=3, in_channels=1)

    whole = trainer("whole").fit(method, {"one": 2}, student=student())
    run = trainer("stopped")
    with pytest.raises(Interrupted):
        run.fit(method, {"one": 2}, student=student(), at=signalling(signal.SIGTERM, 3))
    torch.manual_seed(123)
    assert same(whole, run.fit(method, {"one": 2}, student=student()))


def test_banks_variances_and_virtual_samples_go_on_after_a_stop(trainer: Callable[..., Trainer]) -> None:
    terms = {
        "cross_entropy": {"samples": "virtual"},
        "vid": {"at": {"student": [1, 2], "teacher": [1, 2]}},
        "crd": {"dim": 6, "negatives": 9},
        "queue": {"loss": "crd_queue", "dim": 6, "queue": 12},
    }
    stage = {"epochs": 4, "terms": terms, "mixup": {"per": "sample"}}
    method = Method.model_validate({"name": "m", "paper": "ours", "summary": "", "stages": {"one": stage}})
    whole = trainer("whole").fit(method, {"one": 2})
    run = trainer("stopped")
    with pytest.raises(Interrupted):
        run.fit(method, {"one": 2}, at=signalling(signal.SIGTERM, 3))
    torch.manual_seed(123)
    assert same(whole, run.fit(method, {"one": 2}))


def test_projectors_and_the_teachers_queue_go_on_after_a_stop(trainer: Callable[..., Trainer]) -> None:
    """Over classes that the teacher does not have, with the terms of every method that needs none of them."""
    names = ("pefd", "proteus", "vkd", "inverted_projection", "seed", "rsd", "coss_projected", "kdpp")
    terms: dict[str, Any] = {"cross_entropy": {}, "queue": {"loss": "queue_similarity", "queue": 12}}
    for name in names:
        (stage,) = load_method(name).stages.values()
        _, term = stage.terms.values()
        terms[name] = term.model_dump()
    method = method_of(**terms)
    whole = trainer("whole", student="def").fit(method, {"one": 2})
    for stop in (3, STEPS):
        run = trainer(f"stopped at {stop}", student="def")
        with pytest.raises(Interrupted):
            run.fit(method, {"one": 2}, at=signalling(signal.SIGTERM, stop))
        torch.manual_seed(123)
        assert same(whole, run.fit(method, {"one": 2})), stop


@pytest.mark.parametrize("policy", ["adaptive", "random"])
def test_a_policy_and_its_generator_go_on_after_a_stop(trainer: Callable[..., Trainer], policy: str) -> None:
    terms = {
        "cross_entropy": {},
        "at": {"at": {"student": [1, 3], "teacher": [1, 3]}, "weight": 10},
        "crd": {"dim": 6, "negatives": 9},
    }
    stage = {
        "epochs": 4,
        "terms": terms,
        "spots": {"policy": policy, **({"initial_bias": 0.0} if policy == "adaptive" else {})},
        "optimiser": {"clip_norm": 1.0},
    }
    method = Method.model_validate({"name": "m", "paper": "ours", "summary": "", "stages": {"one": stage}})
    whole = trainer("whole").fit(method, {"one": 3})
    assert len({record["share/map1"] for record in whole.records}) > 1
    for stop in (3, STEPS, STEPS + 1):
        run = trainer(f"stopped at {stop}")
        with pytest.raises(Interrupted):
            run.fit(method, {"one": 3}, at=signalling(signal.SIGTERM, stop))
        torch.manual_seed(123)
        assert same(whole, run.fit(method, {"one": 3})), stop
        shares = [
            (folder / "routing.json").read_text() for folder in (run.folder, run.folder.parent / "whole")
        ]
        assert shares[0] == shares[1]


@pytest.mark.parametrize("stop", [1, STEPS + 1])
def test_measured_weights_outlive_a_stop(trainer: Callable[..., Trainer], stop: int) -> None:
    """They are of the stage's first weights; those of a resumed one would be others."""
    method = method_of(
        cross_entropy={}, sp={"weight": {"relative": 0.5, "batches": 2}, "at": {"student": -1, "teacher": -1}}
    )
    whole = trainer("whole").fit(method, {"one": 2})
    stopped = trainer("stopped")
    with pytest.raises(Interrupted):
        stopped.fit(
            method, {"one": 2}, at=lambda done: signal.raise_signal(signal.SIGINT) if done == stop else None
        )
    assert same(whole, stopped.fit(method, {"one": 2}))
