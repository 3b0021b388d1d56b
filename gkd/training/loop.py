"""fit(): the training loop. Stages, epochs and steps; every task, method and device goes through it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gkd.core.batch import Batch
from gkd.core.errors import UserError
from gkd.core.user_code import told_of
from gkd.distill.fit_check import both_shapes, check_head, check_terms
from gkd.distill.peers import Pair
from gkd.distill.pulls import pulls
from gkd.distill.router import build_router
from gkd.distill.side import Guides, by_name, centres_of_names
from gkd.distill.trained_parts import check_parts
from gkd.methods.distillation_oriented import DistillationOrientedSGD
from gkd.methods.method import Method
from gkd.methods.readers import parts_of, teachers_of_terms
from gkd.methods.refusal import fitting_terms
from gkd.methods.stage import Stage
from gkd.metrics import check_finite
from gkd.problems.problem import Problem
from gkd.storage.checkpoints import latest_checkpoint
from gkd.storage.json_files import write_json
from gkd.storage.run_files import ROUTING
from gkd.storage.weights import copy_state
from gkd.training.interrupt import Interrupt, Interrupted
from gkd.training.meter import Meter, MetricsFile
from gkd.training.predictions import student_outputs
from gkd.training.progress import Reporter
from gkd.training.settings import Settings
from gkd.training.stage_run import Position, StageRun, State
from gkd.training.unlabelled import check_unlabelled


def fit(
    student: nn.Module,
    teacher: Guides,
    problem: Problem,
    method: Method,
    epochs: Mapping[str, int],
    settings: Settings,
    folder: Path | None,
    reporter: Reporter,
) -> tuple[State, State, Position]:
    """Train a student through a method's stages, from the last checkpoint in ``folder`` if any.

    Args:
        student: freshly built from the seed, or a pair of two; trained in place.
        teacher: frozen, one or several by name; None where no term reads one.
        problem: images and label relation.
        method: the stages; ``epochs`` says how long each runs here.
        folder: gets ``metrics.jsonl`` and ``checkpoints/``; None writes nothing, and Ctrl-C stops at once.

    Returns:
        The last stage's last and best state, and the position at the end.

    Raises:
        UserError: a term that does not fit the networks' outputs; nothing was trained.
        Interrupted: a signal asked to stop; everything is saved.
        Diverged: a loss or weight became non-finite; the last checkpoint is whole.
    """
    check_method(method, student, teacher, problem)
    metrics = checkpoints = resumed = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        metrics, checkpoints = MetricsFile(folder / "metrics.jsonl"), folder / "checkpoints"
        resumed = latest_checkpoint(
            checkpoints, lambda passed: reporter.note(f"{passed} is damaged; it is passed over")
        )
    position = Position.from_facts(resumed.facts) if resumed else Position()
    if resumed:
        name, length = list(epochs.items())[position.stage]
        steps = f" and {position.step} steps" if position.step else ""
        reporter.note(
            f"continued from {resumed.folder}: stage {name}, {position.epoch} of {length} epochs{steps} are done"
        )
    if metrics is not None:
        damaged = metrics.cut_back(position.global_step)
        if damaged:
            reporter.note(f"{damaged} damaged lines of {metrics.path} are left out")
    initial = copy_state(student)
    last = best = initial
    before: StageRun | None = None
    with Interrupt(ignored=folder is None) as interrupt:
        for number, (name, stage) in enumerate(method.stages.items()):
            if number < position.stage:
                continue  # done before this run was interrupted
            if number > position.stage:
                position = Position(number, 0, 0, position.global_step, position.seconds, position.images)
            student.load_state_dict({"initial": initial, "last": last, "best": best}[stage.start])
            torch.manual_seed(_stage_seed(settings.seed, number))
            first_view = sum(list(epochs.values())[:number])
            run = StageRun(
                name, stage, epochs[name], student, teacher, problem, settings, position, first_view
            )
            if before is not None:
                run.inherit(before)
            if resumed is not None:
                run.restore(resumed)
                resumed = None
            else:
                for term, weight in run.measure_weights().items():
                    reporter.note(
                        f"stage {name}: {stage.terms[term].shown_weight} is a weight of {weight:.4g} for {term}"
                    )
            _train_stage(run, checkpoints, metrics, reporter, interrupt, sum(epochs.values()))
            last, best, before = copy_state(student), run.best, run
    return last, best, position


def _train_stage(
    run: StageRun,
    checkpoints: Path | None,
    metrics: MetricsFile | None,
    reporter: Reporter,
    interrupt: Interrupt,
    total_epochs: int,
) -> None:
    """The epochs of one stage: train, validate, keep the best, log, save."""
    position, settings = run.position, run.settings
    total_steps = total_epochs * len(run.batches)
    while position.epoch < run.epochs:
        run.clock = time.monotonic()
        lr = _train_epoch(run, checkpoints, reporter, interrupt, total_steps)
        run.spend()  # validation and saving are not training time
        position.epoch, position.step = position.epoch + 1, 0
        last_epoch = position.epoch == run.epochs
        record: dict[str, Any] = {
            "step": position.global_step, "stage": run.name, "epoch": position.epoch, "epochs": run.epochs, "lr": lr,
            **run.meter.read(), "seconds": round(position.seconds, 3),
        }  # fmt: skip
        run.meter = Meter(settings.device)
        if last_epoch or position.epoch % settings.evaluate_every == 0:
            problem, outputs = run.problem, student_outputs(run.student, settings)
            with told_of(problem.judging, "the task validates the student"):
                selected_by, metric = problem.judging.validate(outputs, problem.student, run.stage.select)
            check_finite(selected_by, metric, "the validation images")
            record[f"validation/{selected_by}"] = metric
            if metric > position.best_metric:
                position.best_metric, position.best_epoch = metric, position.epoch
                run.best = copy_state(run.student)
        if metrics is not None:
            metrics.add(record)
            _write_routing(run, metrics.path.parent)
        reporter.epoch(record, last=last_epoch)
        if last_epoch or interrupt.requested or run.overdue:
            run.save(checkpoints)
        if interrupt.requested:
            raise Interrupted(
                f"stopped after epoch {position.epoch} of stage {run.name!r}; everything is saved"
            )


def _write_routing(run: StageRun, folder: Path) -> None:
    """Write a routed stage's ``routing.json``: each class's share at each spot in the epoch just ended."""
    router = run.distiller.router
    if router is None:
        return
    content = {
        "stage": run.name,
        "epoch": run.position.epoch,
        "classes": run.problem.student.space.names,
        "shares": router.take_shares(),
    }
    write_json(folder / ROUTING, content)


def _train_epoch(
    run: StageRun, checkpoints: Path | None, reporter: Reporter, interrupt: Interrupt, total_steps: int
) -> float:
    """Run the remaining steps of an epoch: forward, backward, step; return the last learning rate."""
    position = run.position
    lr = 0.0
    run.distiller.train()
    for batch in run.epoch_batches():
        losses, lr = _step(run, batch, (position.epoch + position.step / len(run.batches)) / run.epochs)
        run.meter.add(losses, position.global_step)
        position.step += 1
        position.global_step += 1
        position.images += len(batch.labels)
        reporter.step(position.global_step, total_steps)
        if position.step < len(run.batches) and (interrupt.requested or run.overdue):
            run.spend()
            run.save(checkpoints)
            if interrupt.requested:
                raise Interrupted(
                    f"stopped in epoch {position.epoch + 1} of stage {run.name!r}; everything is saved"
                )
    return lr


def _step(run: StageRun, batch: Batch, progress: float) -> tuple[dict[str, Tensor], float]:
    """Forward, backward and optimiser step at a point of the stage; the losses and the learning rate."""
    stage, distiller, optimiser = run.stage, run.distiller, run.optimiser
    distiller.set_epoch(progress * stage.epochs)
    lr = stage.optimiser.set_lr(optimiser, progress, stage.epochs)
    with run.settings.autocast():
        losses = distiller(batch)
    if not losses["loss"].requires_grad:
        raise UserError(
            f"The stage {run.name!r} trains {', '.join(stage.train)}, but none of its terms reaches that; "
            "add a term that does, or train another part.",
            code="part-not-reached",
        )
    optimiser.zero_grad(set_to_none=True)
    backward(losses, optimiser)
    if stage.optimiser.clip_norm is not None:
        for parameters in distiller.clipped_together():
            nn.utils.clip_grad_norm_(parameters, stage.optimiser.clip_norm)
    optimiser.step()
    return losses, lr


def backward(losses: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> None:
    """The gradients of a step's loss; of what the teacher says and of all else apart, where the optimiser wants that.

    Args:
        losses: what a `Distiller` gave; the two parts of its loss, where it is ``apart``, leave it.
        optimiser: of the stage.
    """
    if not isinstance(optimiser, DistillationOrientedSGD):
        losses["loss"].backward()
        return
    taught, untaught = losses.pop("taught", None), losses.pop("untaught", None)
    if taught is not None and taught.requires_grad:
        taught.backward(retain_graph=True)
        optimiser.take_teachers()
    if untaught is not None and untaught.requires_grad:
        untaught.backward()


@dataclass(frozen=True)
class Tried:
    """One batch of a stage that was tried.

    Attributes:
        seconds: of a step.
        loss: of that step.
        steps: of an epoch.
        pulls: each term's gradient over the cross-entropy's (``gkd.distill.pulls``); None without one, or of one term.
    """

    seconds: float
    loss: float
    steps: int
    pulls: dict[str, float] | None


def one_step(
    name: str,
    stage: Stage,
    student: nn.Module,
    teacher: Guides,
    problem: Problem,
    settings: Settings,
    position: Position,
) -> Tried:
    """Try a stage on one batch: forward, backward, optimiser step, twice (the first warms up).

    Returns:
        What was seen of it.
    """
    run = StageRun(name, stage, 1, student, teacher, problem, settings, position)
    run.measure_weights()
    batch = next(iter(run.batches.epoch(0)))
    pulled = None
    hard = [
        name for name, term in run.terms.items() if term.is_cross_entropy and run.distiller.scales[name] > 0
    ]
    if set(hard) - set(run.distiller.measured.wanted) and len(hard) < len(run.terms):
        pulled = pulls(run.distiller, [batch], settings.autocast())
    run.distiller.train()
    for _ in range(2):
        started = time.monotonic()
        losses, _ = _step(run, batch, 0.0)
        loss = losses["loss"].item()
        seconds = time.monotonic() - started
    return Tried(seconds, loss, len(run.batches), pulled)


def _stage_seed(seed: int, stage: int) -> int:
    """The seed of a stage's model-side randomness (dropout, negatives); data and order have other seeds."""
    return (seed * 1_000_003 + stage * 7_919 + 1) % 2**63


def check_method(
    method: Method, student: nn.Module, teacher: Guides, problem: Problem, *, has_peer: bool = False
) -> None:
    """Refuse a method that does not fit the networks' outputs or the labels, before anything is trained.

    Args:
        method: to be checked.
        student: the network that is trained, or a pair of which each network is checked.
        teacher: one or several by name; None where no term reads one.
        problem: the first to train.
        has_peer: whether the student is one of a pair.

    Raises:
        UserError: no images without labels for a stage that takes some, no teacher for a term that reads one, a head
            without the cosines that a term reads, a spot that a network does not have, shapes that a loss cannot
            compare, labels that leave it nothing to compare, networks that cannot be spliced where a stage is routed,
            or an optimiser that cannot be used.
    """
    if isinstance(student, Pair):
        check_method(method, student.peer, teacher, problem, has_peer=True)
        student, has_peer = student.student, True
    if method.reads_peer and not has_peer:
        raise UserError(
            f"The method {method.name!r} trains two students that learn from each other, and there is one; use another "
            "method (from Python: gkd.distill.peers has what such a loop needs).",
            code="needs-peer",
        )
    images = problem.student.train
    teachers = by_name(teacher)
    seen = {name: problem.seen_by(name, images).as_teacher_sees.image_shape for name in teachers}
    student_shapes, teacher_shapes = both_shapes(student, teachers, images.image_shape, seen)
    for stage_name, stage in method.stages.items():
        check_unlabelled(stage_name, stage, problem)
        stage.optimiser.check()
        check_parts(student, stage.train)
        terms = fitting_terms(stage.terms, {name: problem.relation_to(name) for name in teachers})
        for name, term in terms.items():
            check_head(name, term, student)
        parts = {
            name: part for each in parts_of(terms, list(teachers)).values() for name, part in each.items()
        }
        for name, term in parts.items():
            of_term = next(iter(teachers_of_terms({name: term}, list(teachers))), None)
            if term.reads_names and of_term is not None:
                centres_of_names(name, teachers[of_term], problem.relation_to(of_term))
        check_terms(parts, student_shapes, teacher_shapes, images.labels)
        reader = next(iter(teachers_of_terms(parts, list(teachers))), None)
        pair = (student_shapes, None if reader is None else teacher_shapes[reader])
        routed_by = None if reader is None else teachers[reader]
        relation = problem.relation if reader is None else problem.relation_to(reader)
        build_router(student, routed_by, terms, stage.spots, pair, relation)
