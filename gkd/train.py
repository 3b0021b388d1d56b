"""fit(): the training loop. Stages, epochs and steps; every task, method and device goes through it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gkd.checkpoint import Checkpoint, copy_state, latest_checkpoint, save_checkpoint, write_json
from gkd.data import Batches, Look
from gkd.distiller import Distiller
from gkd.errors import UserError
from gkd.evaluate import train_centres, validate
from gkd.features import Batch
from gkd.interrupt import Interrupt, Interrupted
from gkd.logging import Diverged, Meter, MetricsFile, Reporter
from gkd.method import Method, Stage
from gkd.rehearsal import check_method
from gkd.report.plots import ROUTING
from gkd.settings import Settings, images_per_class
from gkd.task import Problem
from gkd.teacher import Teacher, TeacherViews

State = dict[str, Tensor]


@dataclass
class Position:
    """Where a run is: counted in whole stages, epochs of the stage and steps of the epoch."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    global_step: int = 0
    seconds: float = 0.0
    images: int = 0
    best_metric: float = float("-inf")
    best_epoch: int = -1


def fit(
    student: nn.Module,
    teacher: Teacher | None,
    problem: Problem,
    method: Method,
    epochs: Mapping[str, int],
    settings: Settings,
    folder: Path,
    reporter: Reporter,
) -> tuple[State, State, Position]:
    """Trains a student through a method's stages, from the last checkpoint in ``folder`` if any.

    Args:
        student: freshly built from the seed; trained in place.
        teacher: frozen; None where no term reads it.
        problem: images and label relation.
        method: the stages; ``epochs`` says how long each runs here.
        folder: gets ``metrics.jsonl`` and ``checkpoints/``.

    Returns:
        The last stage's last and best state, and the position at the end.

    Raises:
        UserError: a term that does not fit the networks' outputs; nothing was trained.
        Interrupted: a signal asked to stop; everything is saved.
        Diverged: a loss or weight became non-finite; the last checkpoint is whole.
    """
    check_method(method, student, teacher, problem)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = MetricsFile(folder / "metrics.jsonl")
    resumed = latest_checkpoint(folder / "checkpoints")
    position = Position(**resumed.facts) if resumed else Position()
    metrics.cut_back(position.global_step)
    initial = copy_state(student)
    last = best = initial
    before: _StageRun | None = None
    with Interrupt() as interrupt:
        for number, (name, stage) in enumerate(method.stages.items()):
            if number < position.stage:
                continue  # done before this run was interrupted
            if number > position.stage:
                position = Position(number, 0, 0, position.global_step, position.seconds, position.images)
            student.load_state_dict({"initial": initial, "last": last, "best": best}[stage.start])
            torch.manual_seed(_stage_seed(settings.seed, number))
            first_view = sum(list(epochs.values())[:number])
            run = _StageRun(
                name, stage, epochs[name], student, teacher, problem, settings, position, first_view
            )
            if before is not None:
                run.inherit(before)
            if resumed is not None:
                run.restore(resumed)
                resumed = None
            _train_stage(run, folder / "checkpoints", metrics, reporter, interrupt, sum(epochs.values()))
            last, best, before = copy_state(student), run.best, run
    return last, best, position


class _StageRun:
    """The objects and the saved state of one stage."""

    def __init__(
        self,
        name: str,
        stage: Stage,
        epochs: int,
        student: nn.Module,
        teacher: Teacher | None,
        problem: Problem,
        settings: Settings,
        position: Position,
        first_view: int = 0,
    ) -> None:
        self.name, self.stage, self.epochs = name, stage, epochs
        self.student, self.problem, self.settings, self.position = student, problem, settings, position
        images = problem.images(stage.data, seed=settings.seed)
        self.batches = Batches(
            images,
            Look(settings.mean, settings.std, settings.augment),
            teacher=_teacher_look(teacher, settings) if teacher else None,
            batch_size=settings.batch_size,
            seed=settings.seed,
            stage=position.stage,
            device=settings.device,
            balanced=images_per_class(stage, settings),
            episodes=stage.episodes,
            views=settings.views,
            first_view=first_view,
            memory_format=torch.channels_last,
        )
        centres = None
        if teacher is not None and any("centres" in term.needs for term in stage.terms.values()):
            centres = train_centres(teacher, problem.student.train, settings)
        self.distiller = Distiller(
            student,
            teacher,
            stage.terms,
            relation=problem.relation if teacher or problem.has_old_classes else None,
            rows=problem.rows,
            centres=centres,
            image_shape=images.image_shape,
            teacher_image_shape=images.as_teacher_sees.image_shape,
            train_labels=images.labels,
            mixup=stage.mixup,
            routing=stage.spots,
        ).to(settings.device)
        self.teacher_views = None
        if teacher is not None and self.distiller.reads_clean_teacher and settings.views is not None:
            self.teacher_views = _teacher_views(teacher, self.batches, settings)
        self.optimiser = stage.optimiser.build(self.distiller.param_groups(stage.train))
        self.meter = Meter(settings.device)
        self.best: State = copy_state(student)
        self.clock = self.saved = time.monotonic()

    @property
    def overdue(self) -> bool:
        """Whether more would be lost by a kill than the settings allow."""
        return time.monotonic() - self.saved > self.settings.checkpoint_seconds

    def spend(self) -> None:
        """Adds the training time since the clock was read to the position."""
        now = time.monotonic()
        self.position.seconds += now - self.clock
        self.clock = now

    def epoch_batches(self) -> Iterator[Batch]:
        """The rest of the current epoch, with the teacher's outputs where they are kept."""
        epoch, start = self.position.epoch, self.position.step
        if self.teacher_views is None:
            return self.batches.epoch(epoch, start)
        spots = {spot for term in self.stage.terms.values() for spot in term.teacher_maps}
        return self.teacher_views.epoch(epoch, start, spots, self.batches)

    def inherit(self, before: _StageRun) -> None:
        """Takes over what the stage before trained in the adapters of the same terms at the same spots."""
        for name, own in self.distiller.adapters.items():
            term, other = self.stage.terms[name], before.stage.terms.get(name)
            if other is None or (term.loss, term.at, term.head) != (other.loss, other.at, other.head):
                continue
            if term.entry.takes_labels and self.stage.data != before.stage.data:
                continue  # banks of other samples
            state = before.distiller.adapters[name].state_dict()
            shapes = {key: values.shape for key, values in own.state_dict().items()}
            if {key: values.shape for key, values in state.items()} == shapes:
                own.load_state_dict(state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continues where the checkpoint was written, to the bit."""
        self.distiller.load_state_dict(checkpoint.weights["distiller"])
        self.best = checkpoint.weights["best"]
        self.optimiser.load_state_dict(checkpoint.state["optimiser"])
        self.meter.load_state_dict(checkpoint.state["meter"])
        torch.set_rng_state(checkpoint.state["generators"]["cpu"])
        if self.settings.device.type == "cuda":
            torch.cuda.set_rng_state(checkpoint.state["generators"]["device"])

    def save(self, parent: Path) -> None:
        """Writes a checkpoint of this moment; refuses where anything is not finite."""
        self.meter.check()
        for name, values in self.distiller.state_dict().items():
            if not bool(torch.isfinite(values).all()):
                raise Diverged(
                    f"{name} became non-finite in stage {self.name!r} before step {self.position.global_step}; "
                    "no such state was saved. Lower optimiser.lr or set optimiser.clip_norm."
                )
        generators = {"cpu": torch.get_rng_state()}
        if self.settings.device.type == "cuda":
            generators["device"] = torch.cuda.get_rng_state()
        save_checkpoint(
            parent,
            self.position.global_step,
            weights={"distiller": self.distiller.state_dict(), "best": self.best},
            state={
                "optimiser": self.optimiser.state_dict(),
                "meter": self.meter.state_dict(),
                "generators": generators,
            },
            facts=vars(self.position),
        )
        self.saved = time.monotonic()


def _train_stage(
    run: _StageRun,
    checkpoints: Path,
    metrics: MetricsFile,
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
            selected_by, metric = validate(run.student, run.problem, run.stage.select, settings)
            record[f"validation/{selected_by}"] = metric
            if metric > position.best_metric:
                position.best_metric, position.best_epoch = metric, position.epoch
                run.best = copy_state(run.student)
        metrics.add(record)
        if run.distiller.router is not None:
            _write_routing(run, metrics.path.parent)
        reporter.epoch(record, last=last_epoch)
        if last_epoch or interrupt.requested or run.overdue:
            run.save(checkpoints)
        if interrupt.requested:
            raise Interrupted(
                f"stopped after epoch {position.epoch} of stage {run.name!r}; everything is saved"
            )


def _write_routing(run: _StageRun, folder: Path) -> None:
    """``routing.json``: where each class was distilled in the epoch that has just ended."""
    assert run.distiller.router is not None
    content = {
        "stage": run.name,
        "epoch": run.position.epoch,
        "classes": run.problem.student.space.names,
        "shares": run.distiller.router.take_shares(),
    }
    write_json(folder / ROUTING, content)


def _train_epoch(
    run: _StageRun, checkpoints: Path, reporter: Reporter, interrupt: Interrupt, total_steps: int
) -> float:
    """The steps of what is left of an epoch: forward, backward, step. Returns the last learning rate."""
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


def _step(run: _StageRun, batch: Batch, progress: float) -> tuple[dict[str, Tensor], float]:
    """Forward, backward and optimiser step at a point of the stage; the losses and the learning rate."""
    stage, distiller, optimiser = run.stage, run.distiller, run.optimiser
    distiller.set_epoch(progress * stage.epochs)
    lr = stage.optimiser.set_lr(optimiser, progress, stage.epochs)
    with run.settings.autocast():
        losses = distiller(batch)
    if not losses["loss"].requires_grad:
        raise UserError(
            f"The stage {run.name!r} trains {', '.join(stage.train)}, but none of its terms reaches that; "
            "add a term that does, or train another part."
        )
    optimiser.zero_grad(set_to_none=True)
    losses["loss"].backward()
    if stage.optimiser.clip_norm is not None:
        for parameters in distiller.clipped_together():
            nn.utils.clip_grad_norm_(parameters, stage.optimiser.clip_norm)
    optimiser.step()
    return losses, lr


def one_step(
    name: str,
    stage: Stage,
    student: nn.Module,
    teacher: Teacher | None,
    problem: Problem,
    settings: Settings,
    position: Position,
) -> tuple[float, float, int]:
    """Tries a stage on one batch: forward, backward, optimiser step, twice (the first warms up).

    Returns:
        Seconds of the second step, its loss, and the steps of an epoch.
    """
    run = _StageRun(name, stage, 1, student, teacher, problem, settings, position)
    batch = next(iter(run.batches.epoch(0)))
    run.distiller.train()
    for _ in range(2):
        started = time.monotonic()
        losses, _ = _step(run, batch, 0.0)
        loss = losses["loss"].item()
        seconds = time.monotonic() - started
    return seconds, loss, len(run.batches)


# Kept teacher outputs of the images that were trained on last: the next cells of a grid read them too.
_VIEWS: dict[tuple[str, ...], TeacherViews] = {}


def _teacher_views(teacher: Teacher, batches: Batches, settings: Settings) -> TeacherViews:
    look = _teacher_look(teacher, settings)
    parts = (settings.views, settings.augment, settings.dtype, look)
    key = (teacher.outputs_key(), batches.images.fingerprint(), *map(str, parts))
    if key not in _VIEWS:
        sizes = [views.bytes for views in _VIEWS.values()]
        while sizes and sum(sizes) + max(sizes) > settings.cache_bytes:
            _VIEWS.pop(next(iter(_VIEWS)))
            sizes.pop(0)
        _VIEWS[key] = TeacherViews(
            teacher,
            autocast=settings.autocast(),
            chunk=settings.evaluate_batch_size,
            limit=settings.cache_bytes,
        )
    return _VIEWS[key]


def _teacher_look(teacher: Teacher, settings: Settings) -> Look:
    augment = settings.augment if settings.teacher_augment is None else settings.teacher_augment
    return Look(teacher.mean, teacher.std, augment, settings.own_draws)


def _stage_seed(seed: int, stage: int) -> int:
    """Model-side randomness (dropout, negatives) of a stage; data and order have their own."""
    return (seed * 1_000_003 + stage * 7_919 + 1) % 2**63
