"""One stage of a run: its batches, distiller, optimiser, and the state that a checkpoint keeps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gkd.core.batch import Batch
from gkd.core.module_source import source_of, source_of_outputs
from gkd.core.network import module_key
from gkd.data import AnyBatches, Batches, ImageSet, Look, MixedBatches, StreamedPixels, unlabelled_rows
from gkd.data.mixed_batches import Together
from gkd.distill.distiller import Distiller
from gkd.distill.output_files import OutputFiles
from gkd.distill.peers import Mutual, Pair
from gkd.distill.pulls import measure_weights
from gkd.distill.side import Guides, TeacherSide, View, by_name
from gkd.distill.teacher import Teacher
from gkd.distill.teacher_views import TeacherViews
from gkd.methods.distillation_oriented import DistillationOrientedSGD
from gkd.methods.readers import teachers_of, teachers_of_terms
from gkd.methods.refusal import fitting_terms
from gkd.methods.stage import Stage
from gkd.problems.problem import Problem
from gkd.storage.checkpoints import Checkpoint, save_checkpoint
from gkd.storage.weights import copy_state
from gkd.training.meter import Diverged, Meter
from gkd.training.predictions import train_balance, train_centres
from gkd.training.settings import Settings, images_per_class

State = dict[str, Tensor]


@dataclass
class Position:
    """The position of a run: counted in whole stages, epochs of the stage and steps of the epoch."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    global_step: int = 0
    seconds: float = 0.0
    images: int = 0
    best_metric: float = float("-inf")
    best_epoch: int = -1

    def facts(self) -> dict[str, float | int | None]:
        """The position as JSON, which has no infinity: before any validation the best metric is None."""
        best = self.best_metric if math.isfinite(self.best_metric) else None
        return {**vars(self), "best_metric": best}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Position:
        """The position of ``facts``."""
        best = facts["best_metric"]
        return cls(**{**facts, "best_metric": float("-inf") if best is None else best})


class StageRun:
    """The objects and the saved state of one stage."""

    def __init__(
        self,
        name: str,
        stage: Stage,
        epochs: int,
        student: nn.Module,
        teachers: Guides,
        problem: Problem,
        settings: Settings,
        position: Position,
        first_view: int = 0,
    ) -> None:
        self.name, self.stage, self.epochs = name, stage, epochs
        self.student, self.problem, self.settings, self.position = student, problem, settings, position
        images = problem.images(stage.data, seed=settings.seed)
        self.teachers = by_name(teachers)
        self.terms = fitting_terms(stage.terms, {name: problem.relation_to(name) for name in self.teachers})
        self.batches = self._batches(images, first_view)
        sides = {name: self._side(name, teacher, images) for name, teacher in self.teachers.items()}
        self.distiller = self._distiller(student, sides, images).to(settings.device)
        self.teacher_views: dict[str, TeacherViews] = {}
        for name in self.distiller.read_clean if settings.views is not None else []:
            view = name if name in problem.teachers else None
            self.teacher_views[name] = _teacher_views(self.teachers[name], view, self.batches, settings)
        self.optimiser = stage.optimiser.build(self.distiller.param_groups(stage.train))
        self.distiller.apart = isinstance(self.optimiser, DistillationOrientedSGD)
        self.meter = Meter(settings.device)
        self.best: State = copy_state(student)
        self.clock = self.saved = time.monotonic()

    def _distiller(
        self, student: nn.Module, sides: Mapping[str, TeacherSide], images: ImageSet
    ) -> Distiller | Mutual:
        """The stage's losses over a student, or over both of a pair."""
        if isinstance(student, Pair):
            ours, theirs = (self._distiller(each, sides, images) for each in (student.student, student.peer))
            assert isinstance(ours, Distiller)
            assert isinstance(theirs, Distiller)
            return Mutual(ours, theirs)
        return Distiller(
            student,
            sides,
            self.terms,
            old_classes=self.problem.old_columns,
            image_shape=images.image_shape,
            train_labels=images.labels,
            mixup=self.stage.mixup,
            routing=self.stage.spots,
            unknown_rows=self.stage.unknown_rows,
        )

    def _side(self, name: str, teacher: Teacher, images: ImageSet) -> TeacherSide:
        """A teacher with its relation, its view and the statistics of it that terms read."""
        problem, settings = self.problem, self.settings
        names = list(self.teachers)
        terms = [term for key, term in self.terms.items() if name in teachers_of(key, term, names)]
        train = problem.seen_by(name, problem.student.train)
        centres = balance = None
        if any("centres" in term.needs and not term.reads_names for term in terms):
            centres = train_centres(teacher, train, settings)
        if any(term.balance is not None for term in terms):
            balance = train_balance(teacher, train, settings)
        shape = problem.seen_by(name, images).as_teacher_sees.image_shape
        view = View(shape, name if name in problem.teachers else None)
        return TeacherSide(teacher, problem.relation_to(name), centres, view, problem.rows, balance)

    def _batches(self, images: ImageSet, first_view: int) -> AnyBatches:
        """The stage's batches of its images, mixed with unlabelled ones where it is on both.

        They have the views of the named teachers that the stage reads, and of any that has no name.
        """
        stage, settings = self.stage, self.settings
        read = teachers_of_terms(self.terms, list(self.teachers))
        looks = {name: _teacher_look(teacher, settings) for name, teacher in self.teachers.items()}
        named = {name: looks[name] for name in read if name in self.problem.teachers}
        unnamed = [look for name, look in looks.items() if name not in self.problem.teachers]

        def of(images: ImageSet, batch_size: int, first: int = 0) -> Batches:
            return Batches(
                images,
                Look(settings.mean, settings.std, settings.augment),
                teacher=unnamed[0] if unnamed else None,
                named=named,
                batch_size=batch_size,
                seed=settings.seed,
                stage=self.position.stage,
                device=settings.device,
                balanced=images_per_class(stage, settings.images_per_class),
                episodes=stage.episodes,
                views=settings.views,
                first_view=first_view,
                memory_format=torch.channels_last,
                first=first,
            )

        if stage.data != "both":
            return of(images, settings.batch_size)
        unlabelled = self.problem.images("unlabelled", seed=settings.seed)
        rows = unlabelled_rows(settings.batch_size, stage.unlabelled_share, unlabelled)
        return MixedBatches(of(images, settings.batch_size - rows), of(unlabelled, rows, len(images)))

    @property
    def overdue(self) -> bool:
        """Whether the last checkpoint is older than ``checkpoint_seconds``."""
        return time.monotonic() - self.saved > self.settings.checkpoint_seconds

    def spend(self) -> None:
        """Add the training time since the clock was read to the position."""
        now = time.monotonic()
        self.position.seconds += now - self.clock
        self.clock = now

    def epoch_batches(self) -> Iterator[Batch]:
        """The rest of the current epoch, with the teacher's outputs where they are kept."""
        epoch, start = self.position.epoch, self.position.step
        stream = self.batches.epoch(epoch, start)
        for name, views in self.teacher_views.items():
            stream = views.epoch(epoch, start, self.distiller.teacher_maps(name), self.batches, stream)
        return stream

    def inherit(self, before: StageRun) -> None:
        """Take over the previous stage's trained adapters of the same terms at the same spots, of the same teacher."""
        adapters, earlier = dict(self.distiller.adapters.items()), dict(before.distiller.adapters.items())
        readers, read_before = self.distiller.readers, before.distiller.readers
        for name, term in self.distiller.terms.items():
            key, other = module_key(name), before.distiller.terms.get(name)
            if (
                key not in adapters
                or other is None
                or readers[name] != read_before[name]
                or (term.loss, term.at, term.head) != (other.loss, other.at, other.head)
            ):
                continue
            if term.entry.takes_labels and self.stage.data != before.stage.data:
                continue  # banks of other samples
            adapter, state = adapters[key], earlier[key].state_dict()
            shapes = {key: values.shape for key, values in adapter.state_dict().items()}
            if {key: values.shape for key, values in state.items()} == shapes:
                adapter.load_state_dict(state)

    def measure_weights(self) -> dict[str, float]:
        """Measure the weights that are relative to the cross-entropy, on the stage's first batches."""
        return measure_weights(self.distiller, self.batches.epoch(0), self.settings.autocast())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state that the checkpoint holds; training continues bit for bit."""
        self.distiller.load_state_dict(checkpoint.weights["distiller"])
        self.best = checkpoint.weights["best"]
        self.optimiser.load_state_dict(checkpoint.state["optimiser"])
        self.meter.load_state_dict(checkpoint.state["meter"])
        torch.set_rng_state(checkpoint.state["generators"]["cpu"])
        if self.settings.device.type == "cuda":
            torch.cuda.set_rng_state(checkpoint.state["generators"]["device"])

    def save(self, parent: Path | None) -> None:
        """Write a checkpoint of this moment, where there is a folder; refuse where anything is not finite."""
        self.meter.check()
        for name, values in self.distiller.state_dict().items():
            if not bool(torch.isfinite(values).all()):
                raise Diverged(
                    f"{name} became non-finite in stage {self.name!r} before step {self.position.global_step}; "
                    "no such state was saved. Lower optimiser.lr or set optimiser.clip_norm.",
                    code="weights-not-finite",
                )
        if parent is None:
            return
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
            facts=self.position.facts(),
        )
        self.saved = time.monotonic()


def _teacher_views(
    teacher: Teacher, view: str | None, batches: AnyBatches, settings: Settings
) -> TeacherViews:
    """The teacher's outputs on these images from the settings' caches, which the next cells of a grid read too.

    ``view`` is the name of a teacher among several. On disk that name does not count, so a run with this teacher alone
    has the same outputs.
    """
    cached = settings.caches.views
    look = _teacher_look(teacher, settings)  # how the student sees them is not among it
    seen = batches.images if view is None else batches.images.seen_by(view)
    images = (seen.fingerprint(), *_forms(seen))
    of_outputs = (teacher.outputs_key(), *images, str(settings.dtype), str(look))
    rounded = settings.outputs_rounded and settings.dtype == torch.float32
    key = (*of_outputs, str(settings.views), str(rounded), str(settings.outputs_folder))
    key += () if view is None else (view,)
    if key not in cached:
        sizes = [views.bytes for views in cached.values()]
        while sizes and sum(sizes) + max(sizes) > settings.cache_bytes:  # the oldest give way
            cached.pop(next(iter(cached)))
            sizes.pop(0)
        files = None
        if settings.outputs_folder is not None:
            on_disk = (*of_outputs, str(rounded), *_machine(teacher, settings))
            files = OutputFiles(settings.outputs_folder, on_disk)
        cached[key] = TeacherViews(
            teacher,
            autocast=settings.autocast(),
            chunk=settings.evaluate_batch_size,
            limit=settings.cache_bytes,
            files=files,
            rounded=rounded,
            name=view,
        )
    return cached[key]


def _forms(images: ImageSet | Together) -> Iterator[str]:
    """How images that are read from disk are brought to their size, which their fingerprint does not say."""
    for part in (images.first, images.second) if isinstance(images, Together) else (images,):
        for pixels in (part.images, part.teacher_images):
            if isinstance(pixels, StreamedPixels):
                yield str(pixels.form)


def _machine(teacher: Teacher, settings: Settings) -> Iterator[str]:
    """What else outputs depend on, to their last bits, where another process computed them."""
    yield f"gkd {source_of_outputs()}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    yield f"torchvision {version('torchvision')}"  # whose operations augment and resize
    yield f"{settings.device.type}, {torch.get_num_threads()} threads, {settings.evaluate_batch_size} images"
    if settings.device.type == "cuda":
        yield f"{torch.cuda.get_device_name(settings.device)}, {torch.are_deterministic_algorithms_enabled()}"
    for name in sorted({type(module).__module__ for module in teacher.modules()}):
        if name.partition(".")[0] not in ("gkd", "torch"):
            yield f"{name} {source_of(name)}"


def _teacher_look(teacher: Teacher, settings: Settings) -> Look:
    augment = settings.augment if settings.teacher_augment is None else settings.teacher_augment
    mean = settings.mean if teacher.mean is None else teacher.mean
    std = settings.std if teacher.std is None else teacher.std
    return Look(mean, std, augment, settings.own_draws)
