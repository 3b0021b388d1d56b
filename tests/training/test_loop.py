"""The loop: it learns, repeats to the bit, goes on where it stopped, and saves nothing that is not finite."""

from __future__ import annotations

import io
import math
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

import gkd.training.loop
import gkd.training.stage_run
from gkd.config.shipped import load_method
from gkd.core.batch import Batch
from gkd.core.errors import UserError
from gkd.core.network import Features
from gkd.distill.teacher import Teacher
from gkd.losses import LOSSES, Loss, Mask
from gkd.methods.method import Method
from gkd.models import ResNet, build_network
from gkd.problems.judging import BY_CLASSES
from gkd.problems.problem import Problem
from gkd.storage.checkpoints import latest_checkpoint
from gkd.storage.weights import copy_state
from gkd.training.caches import Caches
from gkd.training.interrupt import Interrupted
from gkd.training.loop import fit, one_step
from gkd.training.meter import Diverged, MetricsFile
from gkd.training.predictions import predict, student_outputs
from gkd.training.progress import Reporter
from gkd.training.settings import Settings
from gkd.training.stage_run import Position, State

SETTINGS = Settings(
    seed=1, batch_size=8, augment="crop-flip", mean=(0.5,), std=(0.25,), device=torch.device("cpu"),
    dtype=torch.float32, checkpoint_seconds=1e9,
)  # fmt: skip
EAGER = replace(SETTINGS, checkpoint_seconds=-1.0)  # a checkpoint after every step
STEPS = 4  # an epoch: 32 images in batches of 8
EPOCHS = {"embedding": 2, "classifier": 2}
TOTAL = 4 * STEPS
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


class Watched(Reporter):
    """Calls ``at`` with the number of steps done, and counts the calls."""

    def __init__(self, at: Callable[[int], object] | None = None) -> None:
        super().__init__(Console(file=io.StringIO()), "test")
        self.at = at
        self.steps = 0

    def step(self, done: int, total: int) -> None:
        self.steps += 1
        if self.at is not None:
            self.at(done)


@dataclass
class Outcome:
    last: State
    best: State
    position: Position
    records: list[dict[str, Any]]
    steps: int


@dataclass
class Trainer:
    """Builds everything anew, as a new process would, and trains in ``folder``."""

    problem: Problem
    make_teacher: Callable[..., Teacher]
    folder: Path

    def student(self) -> nn.Module:
        torch.manual_seed(SETTINGS.seed)
        return build_network("resnet8", num_classes=len(self.problem.student.space), in_channels=1)

    def fit(
        self,
        method: Method,
        epochs: dict[str, int],
        *,
        settings: Settings = SETTINGS,
        at: Callable[[int], object] | None = None,
        student: nn.Module | None = None,
    ) -> Outcome:
        teacher = self.make_teacher(list(self.problem.relation.teacher), mean=(0.4,))
        before, reporter = teacher.state_hash(), Watched(at)
        last, best, position = fit(
            student or self.student(),
            teacher if method.needs_teacher else None,
            self.problem,
            method,
            epochs,
            settings,
            self.folder,
            reporter,
        )
        assert teacher.state_hash() == before
        records = MetricsFile(self.folder / "metrics.jsonl").read()
        for record in records:
            record.pop("seconds")
        return Outcome(last, best, position, records, reporter.steps)


@pytest.fixture
def trainer(
    make_problem: Callable[..., Problem], make_teacher: Callable[..., Teacher], tmp_path: Path
) -> Callable[..., Trainer]:
    def make(name: str = "run", teacher: str = "abc", student: str = "bcd") -> Trainer:
        (tmp_path / name).mkdir()
        return Trainer(make_problem(teacher, student), make_teacher, tmp_path / name)

    return make


def same(first: Outcome, second: Outcome) -> bool:
    """Whether two runs end with the same bits and the same lines of metrics."""
    for one, other in ((first.last, second.last), (first.best, second.best)):
        assert set(one) == set(other)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert first.records == second.records
    assert replace(first.position, seconds=0) == replace(second.position, seconds=0)
    return True


def method_of(*, optimiser: dict[str, Any] | None = None, **terms: dict[str, Any]) -> Method:
    """One stage of four epochs."""
    stage = {
        "epochs": 4,
        "terms": terms,
        "optimiser": {"lr": 0.05, "schedule": "constant", **(optimiser or {})},
    }
    return Method.model_validate({"name": "m", "paper": "ours", "summary": "", "stages": {"one": stage}})


def test_training_lowers_the_loss_and_learns(trainer: Callable[..., Trainer]) -> None:
    run = trainer()
    outcome = run.fit(load_method("student"), {"train": 8})
    losses = [record["loss"] for record in outcome.records]
    assert losses[-1] < 0.5 * losses[0]
    student = run.student()
    outputs, images = student_outputs(student, SETTINGS), run.problem.student
    _, before = BY_CLASSES.validate(outputs, images, "accuracy")
    student.load_state_dict(outcome.last)
    assert BY_CLASSES.validate(outputs, images, "accuracy")[1] > max(before, 60)
    assert outcome.position.images == 8 * 32
    assert outcome.position.global_step == outcome.steps == 8 * STEPS


@pytest.mark.parametrize("name", ["sp", "refilled", "refilled_cvpr", "refilled_joint", "refilled_weighted"])
@pytest.mark.parametrize("student", ["cab", "bcd", "def"], ids=["same", "overlapping", "disjoint"])
def test_every_relation_trains(trainer: Callable[..., Trainer], name: str, student: str) -> None:
    method = load_method(name)
    outcome = trainer(student=student).fit(method, dict.fromkeys(method.stages, 1))
    assert all(math.isfinite(record["loss"]) for record in outcome.records)
    assert len(outcome.records) == len(method.stages)


@pytest.mark.parametrize("views", [None, 2])
def test_the_same_seed_gives_the_same_bits(trainer: Callable[..., Trainer], views: int | None) -> None:
    settings, method = replace(SETTINGS, views=views), load_method("refilled")
    first = trainer("first").fit(method, EPOCHS, settings=settings)
    torch.rand(7)  # whatever the process drew in between
    assert same(first, trainer("second").fit(method, EPOCHS, settings=settings))
    other = trainer("other").fit(method, EPOCHS, settings=replace(settings, seed=2))
    assert not torch.equal(first.last["fc.weight"], other.last["fc.weight"])


@pytest.mark.parametrize("views", [None, 2])
@pytest.mark.parametrize("stop", [1, STEPS, STEPS + 2, 2 * STEPS, 3 * STEPS - 1, TOTAL])
def test_a_signal_and_a_second_start_change_no_bit(
    trainer: Callable[..., Trainer], stop: int, views: int | None
) -> None:
    """In either stage, within an epoch, between epochs, between stages, and at the very end."""
    settings, method = replace(SETTINGS, views=views), load_method("refilled")
    whole = trainer("whole").fit(method, EPOCHS, settings=settings)
    handler = signal.getsignal(signal.SIGINT)
    run = trainer("stopped")
    with pytest.raises(Interrupted, match="everything is saved"):
        run.fit(
            method, EPOCHS, settings=settings,
            at=lambda done: signal.raise_signal(signal.SIGINT) if done == stop else None,
        )  # fmt: skip
    assert signal.getsignal(signal.SIGINT) is handler
    found = latest_checkpoint(run.folder / "checkpoints")
    assert found is not None
    assert found.facts["global_step"] == stop
    settings = replace(settings, caches=Caches())  # as in a new process
    torch.rand(7)
    rest = run.fit(method, EPOCHS, settings=settings)
    assert rest.steps == TOTAL - stop
    assert same(whole, rest)


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
        run.fit(method, {"one": 2}, at=lambda done: signal.raise_signal(signal.SIGINT) if done == 5 else None)
    rest = run.fit(method, {"one": 2})
    assert rest.steps == 2 * STEPS - 5
    assert same(whole, rest)


@pytest.mark.parametrize("views", [None, 2])
@pytest.mark.parametrize("stop", [5, 8, 11, 14, 17])
def test_episodic_training_goes_on_after_a_stop(
    trainer: Callable[..., Trainer], stop: int, views: int | None
) -> None:
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
    run = trainer("stopped")
    with pytest.raises(Interrupted):
        run.fit(
            method, epochs, settings=settings,
            at=lambda done: signal.raise_signal(signal.SIGTERM) if done == stop else None,
        )  # fmt: skip
    settings = replace(settings, caches=Caches())  # as in a new process
    torch.manual_seed(123)
    rest = run.fit(method, epochs, settings=settings)
    assert rest.steps == whole.steps - stop
    assert same(whole, rest)


@pytest.mark.parametrize("stop", [3, STEPS + 1, 2 * STEPS + 2])
def test_a_death_without_warning_costs_only_what_was_not_saved(
    trainer: Callable[..., Trainer], stop: int
) -> None:
    method = load_method("refilled")
    whole = trainer("whole").fit(method, EPOCHS)
    run = trainer("killed")

    def die(done: int) -> None:
        if done == stop:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run.fit(method, EPOCHS, settings=EAGER, at=die)
    damaged = latest_checkpoint(run.folder / "checkpoints")
    assert damaged is not None
    (damaged.folder / "state.pt").write_bytes(b"half")  # the disk took the newest one along
    assert same(whole, run.fit(method, EPOCHS))


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
        run.fit(
            method, {"one": 2}, student=student(),
            at=lambda done: signal.raise_signal(signal.SIGTERM) if done == 3 else None,
        )  # fmt: skip
    torch.manual_seed(123)
    assert same(whole, run.fit(method, {"one": 2}, student=student()))


@pytest.mark.parametrize(("data", "steps"), [("all", STEPS), ("balanced", STEPS), ("held-out", 2)])
def test_a_stage_chooses_its_images(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, data: str, steps: int
) -> None:
    seen: list[list[int]] = []
    forward = gkd.training.stage_run.Distiller.forward

    def watched(self: Any, batch: Batch) -> dict[str, Tensor]:
        seen.append(batch.labels.tolist())
        return forward(self, batch)

    monkeypatch.setattr(gkd.training.stage_run.Distiller, "forward", watched)
    content = method_of(sp={}, cross_entropy={}).model_dump()
    content["stages"]["one"].update(data=data, images_per_class=4)
    outcome = trainer().fit(Method.model_validate(content), {"one": 2}, settings=replace(SETTINGS, views=2))
    assert outcome.steps == len(seen) == 2 * steps
    counts = [sorted(labels.count(label) for label in set(labels)) for labels in seen]
    assert (counts == [[4, 4]] * len(seen)) == (data == "balanced")


def test_bf16_trains_close_to_float32(trainer: Callable[..., Trainer]) -> None:
    method = load_method("refilled_joint")
    exact = trainer("float32").fit(method, {"distil": 2})
    rounded = trainer("bf16").fit(method, {"distil": 2}, settings=replace(SETTINGS, dtype=torch.bfloat16))
    for name in ("loss/cross_entropy", "loss/induced"):
        assert rounded.records[0][name] == pytest.approx(exact.records[0][name], rel=0.05)
    assert all(tensor.dtype != torch.bfloat16 for tensor in rounded.last.values())  # weights stay float32


def test_a_finished_run_is_not_trained_again(trainer: Callable[..., Trainer]) -> None:
    run, method = trainer(), load_method("refilled")
    first = run.fit(method, EPOCHS)
    again = run.fit(method, EPOCHS)
    assert again.steps == 0
    assert all(torch.equal(first.last[name], again.last[name]) for name in first.last)
    assert all(torch.equal(first.best[name], again.best[name]) for name in first.best)
    assert again.records == first.records


def test_the_second_stage_starts_from_the_firsts_best_with_a_fresh_optimiser(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[tuple[State, dict[Any, Any]]] = []
    ends: list[State] = []
    train_stage = gkd.training.loop._train_stage

    def watched(run: Any, *arguments: Any) -> None:
        starts.append((copy_state(run.student), dict(run.optimiser.state)))
        train_stage(run, *arguments)
        ends.append(run.best)

    monkeypatch.setattr(gkd.training.loop, "_train_stage", watched)
    run = trainer()
    outcome = run.fit(load_method("refilled"), EPOCHS)
    initial = run.student().state_dict()
    assert all(torch.equal(starts[0][0][name], initial[name]) for name in initial)
    assert all(torch.equal(starts[1][0][name], ends[0][name]) for name in initial)
    assert not torch.equal(starts[1][0]["conv1.weight"], initial["conv1.weight"])
    assert starts[0][1] == starts[1][1] == {}  # no momentum is carried over
    assert [(r["stage"], r["epoch"]) for r in outcome.records] == [
        ("embedding", 1), ("embedding", 2), ("classifier", 1), ("classifier", 2)
    ]  # fmt: skip
    assert all("validation/ncm" in record for record in outcome.records[:2])
    assert all("validation/accuracy" in record for record in outcome.records[2:])


def test_the_best_is_the_first_epoch_of_the_largest_validation(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([50.0, 70.0, 70.0, 60.0])
    monkeypatch.setattr(gkd.training.loop, "validate", lambda *_: ("accuracy", next(values)))
    outcome = trainer().fit(method_of(cross_entropy={}), {"one": 4})
    assert (outcome.position.best_epoch, outcome.position.best_metric) == (2, 70.0)
    assert not torch.equal(outcome.best["conv1.weight"], outcome.last["conv1.weight"])


def test_the_last_epoch_is_always_validated(trainer: Callable[..., Trainer]) -> None:
    settings = replace(SETTINGS, evaluate_every=3)
    outcome = trainer().fit(method_of(cross_entropy={}), {"one": 4}, settings=settings)
    assert [record["epoch"] for record in outcome.records if "validation/accuracy" in record] == [3, 4]


def test_the_learning_rate_and_the_weights_follow_the_methods_own_epochs(
    trainer: Callable[..., Trainer],
) -> None:
    method = method_of(
        optimiser={"schedule": "multi-step", "milestones": [2]},
        cross_entropy={"schedule": {"kind": "linear", "warmup_epochs": 4}},
    )
    outcome = trainer().fit(method, {"one": 8})  # twice as long as published
    assert [record["lr"] for record in outcome.records] == pytest.approx([0.05] * 4 + [0.005] * 4)
    ratios = [record["loss"] / record["loss/cross_entropy"] for record in outcome.records]
    assert ratios == pytest.approx([(epoch + 0.375) / 8 for epoch in range(8)], rel=0.2)


class _BreaksGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * math.nan


def broken_loss(step: int, how: str) -> Callable[..., Tensor]:
    """A loss whose value or gradient is NaN from the given step on."""
    calls = 0

    def broken(student_logits: Tensor, *, mask: Mask = None) -> Tensor:
        nonlocal calls
        calls += 1
        value = student_logits.square().mean()
        if calls <= step:
            return value
        return value * math.nan if how == "value" else _BreaksGradient.apply(value)

    return broken


def assert_checkpoints_are_finite(folder: Path, newest: int) -> None:
    found = latest_checkpoint(folder / "checkpoints")
    assert found is not None
    assert found.facts["global_step"] == newest
    for path in (folder / "checkpoints").rglob("*.safetensors"):
        for name, tensor in load_file(path).items():
            assert torch.isfinite(tensor.double()).all(), f"{path.name}: {name}"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("value", "^loss/broken became non-finite at step 6; .* Lower optimiser.lr"),
        ("gradient", "non-finite .*before step 7"),
    ],
)
def test_what_diverges_is_named_and_never_saved(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, how: str, message: str
) -> None:
    monkeypatch.setitem(LOSSES, "broken", Loss(broken_loss(6, how), "ours"))
    run, method = trainer(), method_of(cross_entropy={}, broken={})
    with pytest.raises(Diverged, match=message):
        run.fit(method, {"one": 4}, settings=EAGER)
    assert_checkpoints_are_finite(run.folder, 6)


def test_divergence_is_found_without_a_checkpoint_in_between(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSSES, "broken", Loss(broken_loss(2, "value"), "ours"))
    run = trainer()
    with pytest.raises(Diverged, match=r"^loss/broken became non-finite at step 2"):
        run.fit(method_of(broken={}), {"one": 4})
    assert latest_checkpoint(run.folder / "checkpoints") is None
    assert MetricsFile(run.folder / "metrics.jsonl").read() == []


def test_a_buffer_that_is_not_finite_is_never_saved(trainer: Callable[..., Trainer]) -> None:
    """In training mode BatchNorm does not read its running statistics, so the loss stays finite."""
    run = trainer()
    student = run.student()

    def overflow(done: int) -> None:
        if done == 6:
            student.bn1.running_var.fill_(math.inf)  # type: ignore[union-attr, operator]

    with pytest.raises(Diverged):
        run.fit(method_of(cross_entropy={}), {"one": 2}, student=student, at=overflow, settings=EAGER)
    assert_checkpoints_are_finite(run.folder, 5)


def test_only_the_named_parts_are_trained(trainer: Callable[..., Trainer]) -> None:
    content = method_of(cross_entropy={}).model_dump()
    content["stages"]["one"]["train"] = ["head"]
    run = trainer()
    outcome = run.fit(Method.model_validate(content), {"one": 1})
    for name, before in run.student().named_parameters():
        assert torch.equal(outcome.last[name], before) == (not name.startswith("fc."))


def test_a_stage_that_has_nothing_to_train_is_refused(trainer: Callable[..., Trainer]) -> None:
    """The tuples' loss does not reach the head, so such a stage is a mistake in the config."""
    content = method_of(tuples={}).model_dump()
    content["stages"]["one"]["train"] = ["head"]
    with pytest.raises(UserError, match="'one'"):
        trainer().fit(Method.model_validate(content), {"one": 1})


def test_one_step_tries_a_stage(trainer: Callable[..., Trainer]) -> None:
    run = trainer()
    method = load_method("refilled")
    teacher = run.make_teacher(list(run.problem.relation.teacher))
    for number, (name, stage) in enumerate(method.stages.items()):
        seconds, loss, steps = one_step(
            name, stage, run.student(), teacher, run.problem, SETTINGS, Position(stage=number)
        )
        assert seconds > 0
        assert math.isfinite(loss)
        assert steps == STEPS


def test_predictions_do_not_depend_on_the_batch_size_and_leave_the_mode(
    trainer: Callable[..., Trainer],
) -> None:
    run = trainer()
    student, images = run.student().train(), run.problem.student.test
    before = copy_state(student)
    logits, embedding = predict(student, images, SETTINGS)
    assert student.training
    assert all(torch.equal(student.state_dict()[name], before[name]) for name in before)
    small, _ = predict(student, images, replace(SETTINGS, evaluate_batch_size=5))
    assert logits.shape == (64, 3)
    assert embedding.shape == (64, 64)
    assert torch.allclose(logits, small, atol=1e-5)


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
        run.fit(
            method, {"one": 2},
            at=lambda done: signal.raise_signal(signal.SIGTERM) if done == 3 else None,
        )  # fmt: skip
    torch.manual_seed(123)
    assert same(whole, run.fit(method, {"one": 2}))


@pytest.mark.parametrize("policy", ["adaptive", "random"])
@pytest.mark.parametrize("stop", [3, STEPS, STEPS + 1])
def test_a_policy_and_its_generator_go_on_after_a_stop(
    trainer: Callable[..., Trainer], stop: int, policy: str
) -> None:
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
    run = trainer("stopped")
    with pytest.raises(Interrupted):
        run.fit(
            method, {"one": 3},
            at=lambda done: signal.raise_signal(signal.SIGTERM) if done == stop else None,
        )  # fmt: skip
    torch.manual_seed(123)
    assert same(whole, run.fit(method, {"one": 3}))
    shares = [(run.folder.parent / name / "routing.json").read_text() for name in ("whole", "stopped")]
    assert shares[0] == shares[1]


@pytest.mark.parametrize("stop", [None, 1, STEPS + 1])
def test_a_paraphraser_is_trained_first_and_then_kept(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, stop: int | None
) -> None:
    """The student waits while the paraphraser is trained; then that is a constant, also after a stop."""
    method = load_method("ft")
    ends: list[tuple[State, State]] = []
    train_stage = gkd.training.loop._train_stage

    def watched(run: Any, *arguments: Any) -> None:
        train_stage(run, *arguments)
        ends.append((copy_state(run.student), copy_state(run.distiller.adapters)))

    monkeypatch.setattr(gkd.training.loop, "_train_stage", watched)
    run = trainer()
    epochs = {"paraphraser": 1, "distil": 1}
    if stop is not None:
        with pytest.raises(Interrupted):
            run.fit(
                method, epochs, at=lambda done: signal.raise_signal(signal.SIGINT) if done == stop else None
            )
    outcome = run.fit(method, epochs)
    initial = run.student().state_dict()
    assert all(torch.equal(ends[0][0][name], initial[name]) for name in initial)
    paraphrased = {name for name in ends[-1][1] if ".encoder." in name or ".decoder." in name}
    assert len(paraphrased) == 12
    assert all(torch.equal(ends[0][1][name], ends[-1][1][name]) for name in paraphrased)
    assert (
        any(not torch.equal(ends[0][1][n], ends[-1][1][n]) for n in ends[0][1] if n not in paraphrased)
        or stop
    )
    assert [record["stage"] for record in outcome.records] == ["paraphraser", "distil"]


def test_a_term_that_does_not_fit_is_refused_before_the_first_stage(trainer: Callable[..., Trainer]) -> None:
    content = load_method("ft").model_dump()
    for stage in content["stages"].values():
        stage["terms"]["ft"]["at"] = {"student": 8, "teacher": -1}
    run = trainer()
    with pytest.raises(UserError, match="The spot 8 is outside the network's 4 maps"):
        run.fit(Method.model_validate(content), {"paraphraser": 1, "distil": 1})
    assert not list(run.folder.iterdir())


@pytest.mark.parametrize(("second", "kept"), [({}, True), ({"dim": 7}, False), ({"at": [2, 2]}, False)])
def test_a_terms_module_passes_on_whole_or_not_at_all(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, second: dict[str, Any], kept: bool
) -> None:
    def stage(loss: dict[str, Any]) -> dict[str, Any]:
        return {
            "epochs": 1,
            "terms": {"cross_entropy": {}, "extra": loss},
            "optimiser": {"schedule": "constant"},
        }

    if "at" in second:
        spots = [{"student": number, "teacher": number} for number in (1, second["at"][0])]
        losses = [{"loss": "fitnet", "at": at} for at in spots]
    else:
        losses = [{"loss": "cc_neighbour", "dim": 5}, {"loss": "cc_neighbour", "dim": 5, **second}]
    method = Method.model_validate(
        {
            "name": "m", "paper": "ours", "summary": "",
            "stages": {"one": stage(losses[0]), "two": stage(losses[1])},
        }
    )  # fmt: skip
    states: list[State] = []
    train_stage = gkd.training.loop._train_stage

    def watched(run: Any, *arguments: Any) -> None:
        states.append(copy_state(run.distiller.adapters))
        train_stage(run, *arguments)
        states.append(copy_state(run.distiller.adapters))

    monkeypatch.setattr(gkd.training.loop, "_train_stage", watched)
    trainer().fit(method, {"one": 1, "two": 1})
    _, after_first, before_second, _ = states
    same_shapes = [key for key in after_first if after_first[key].shape == before_second[key].shape]
    equal = [key for key in same_shapes if torch.equal(after_first[key], before_second[key])]
    trained = [key for key in same_shapes if "num_batches" not in key and "running" not in key]
    assert all(key in equal for key in trained) if kept else not any(key.endswith("weight") for key in equal)
