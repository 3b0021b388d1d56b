"""Train a student from Python, without YAML: the same training loop, on the caller's networks and data."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader

from gkd.config.shipped import shipped_methods
from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation
from gkd.core.short_repr import short_repr
from gkd.data import ImageSet, split_validation
from gkd.distill.fit_check import head_notes
from gkd.distill.teacher import Teacher
from gkd.experiment.environment import environment
from gkd.experiment.judge import judge
from gkd.experiment.python_arguments import (
    Images,
    as_network,
    as_teacher,
    image_set,
    like,
    method_of,
    settings_for,
    without_labels,
)
from gkd.experiment.run_folder import locked
from gkd.experiment.sources import rounded_statistics
from gkd.methods.method import Method
from gkd.methods.refusal import fitting_method, left_out, require
from gkd.methods.terms import Term
from gkd.problems.plan import Plan, PlannedNetwork
from gkd.problems.problem import Problem, Source
from gkd.storage.checkpoints import latest_checkpoint
from gkd.storage.json_files import read_json, write_json
from gkd.storage.run_files import FIT
from gkd.training.loop import check_method
from gkd.training.loop import fit as train
from gkd.training.predictions import student_outputs
from gkd.training.progress import Reporter
from gkd.training.settings import Settings


@dataclass(frozen=True)
class Outcome:
    """The result of training.

    Attributes:
        student: the network of the last epoch, in eval mode on the CPU or the training device.
        best: that of the epoch which validation chose.
        metrics: ``last`` and ``best`` accuracy in percent on the test images (``test/last``, ``test/best``), where
            there are any, and of a config's ``evaluate.metrics`` (``test/last/NAME``); ``validation``, the best value
            there; ``epoch``, its epoch.
        mean, std: the input normalisation that the networks were trained under, per channel, in [0, 1] pixel units.
        folder: where the run is saved; None where nothing was written.
    """

    student: nn.Module
    best: nn.Module
    metrics: dict[str, float]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    folder: Path | None = None

    __repr__ = short_repr


def fit(
    student: nn.Module,
    data: Images,
    method: str | Method | Mapping[str, Term] | None = None,
    *,
    teacher: Teacher | nn.Module | None = None,
    validation: Images | None = None,
    test: Images | None = None,
    unlabelled: ImageSet | None = None,
    epochs: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    augment: str = "none",
    optimiser: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: str = "auto",
    folder: Path | str | None = None,
) -> Outcome:
    """Train a student, with a teacher or alone, by any method of gkd on any images.

    The student is trained in place. The same arguments give the same bits on the same machine.

    Args:
        student: a gkd network, or any module from images to logits (``gkd.tap`` names what it should read of it).
        data: training images: an ``ImageSet``; a torch data set that ``gkd.data.from_dataset`` takes (with labels in
            ``.targets`` or ``.labels``, or a ``TensorDataset``), whose items are PIL images, uint8 pixels or floats
            in [0, 1]; or a DataLoader over one, of which the data set and the batch size are taken: order and
            augmentation are gkd's, as functions of the seed.
        method: the name of a shipped method, a ``Method``, or terms by name, which make one stage; None takes ``auto``,
            and ``student`` without a teacher.
        teacher: a ``Teacher``, or a network whose columns are the student's classes where it has as many; None where
            the method reads none.
        validation: images that choose the best epoch; None holds out a tenth of ``data``.
        test: images that are judged once, at the end.
        unlabelled: images for a method that trains on some without labels (``gkd.data.load_unlabelled``); labels that
            they have are not read.
        epochs: of all stages together; None takes the method's published number.
        seed: of the order, the augmentation and the adapters; the student's initial weights are the caller's.
        batch_size: None takes the DataLoader's, or 64.
        augment: as ``data.augment`` in a config, such as ``crop-flip``.
        optimiser: keys of every stage's optimiser, such as ``{"lr": 0.01}``.
        device, precision: as ``run.device`` and ``run.precision`` in a config.
        folder: where checkpoints and ``metrics.jsonl`` go, so that the same call continues what was interrupted,
            from the weights there, whatever the student starts from; a call with other arguments is refused. None
            writes nothing.

    Raises:
        UserError: images, networks or a method that do not fit each other; nothing was trained.
    """
    if method is None:
        method = "student" if teacher is None else "auto"
    plan = method_of(method, epochs, optimiser or {})
    train_images = image_set(data, "data")
    if validation is None:
        train_images, chosen = split_validation(train_images, fraction=0.1, seed=0)
    else:
        chosen = like(train_images, image_set(validation, "validation"), "validation")
    judged = chosen if test is None else like(train_images, image_set(test, "test"), "test")
    unlabelled = without_labels(train_images, unlabelled)
    network = as_network(student, len(train_images.space))
    mean, std = rounded_statistics(train_images)
    guide = None
    if teacher is not None and plan.needs_teacher:
        guide = as_teacher(teacher, train_images.space)
    relation = LabelRelation(train_images.space if guide is None else guide.space, train_images.space)
    images = Source(train_images, chosen, judged)
    problem = Problem("student", relation, images, images, unlabelled=unlabelled)
    require(plan, None if guide is None else relation, lambda: _working_methods(network, guide, problem))
    if guide is not None:
        for note in left_out(plan, relation):
            warnings.warn(note, stacklevel=2)
        plan = fitting_method(plan, relation)
    if plan.head != "own":
        raise UserError(
            f"The method {plan.name!r} builds a projector and a head behind the student, but gkd.fit trains the "
            "network that it is given; use gkd run, or gkd.models.projected and the terms of that method.",
            code="builds-another-student",
        )
    problem.check(Plan("gkd.fit", plan, PlannedNetwork(type(student).__name__)))
    shape = train_images.image_shape
    for note in head_notes(plan, (network, shape), None if guide is None else (guide.network, shape)):
        warnings.warn(note, stacklevel=2)
    if batch_size is None:
        batch_size = (data.batch_size if isinstance(data, DataLoader) else None) or 64
    settings = settings_for(
        mean, std, seed=seed, batch_size=batch_size, augment=augment, device=device, precision=precision
    )
    network.to(settings.device, memory_format=torch.channels_last)
    if guide is not None:
        guide.to(settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    target = None if folder is None else Path(folder)
    alone = nullcontext() if target is None else locked(target, None)
    with alone, Reporter(Console(quiet=True), "fit") as reporter:
        if target is not None:
            _begin(target, _facts(network, guide, problem, plan, plan.epochs(epochs), settings))
        last, best, position = train(
            network, guide, problem, plan, plan.epochs(epochs), settings, target, reporter
        )
    metrics = {"validation": position.best_metric, "epoch": float(position.best_epoch)}
    networks = {"best": copy.deepcopy(network), "last": network}
    for which, state in (("last", last), ("best", best)):
        networks[which].load_state_dict(state)
        networks[which].eval()
        if test is not None:
            outputs = student_outputs(networks[which], settings)
            scores = problem.judging.scores(outputs, images, by_head=plan.judged_by_head)
            metrics[f"test/{which}"] = judge(scores, judged.labels.cpu(), plan).accuracy
    return Outcome(networks["last"], networks["best"], metrics, mean, std, target)


def _working_methods(network: nn.Module, guide: Teacher | None, problem: Problem) -> dict[str, Method]:
    """The shipped methods that these networks can be trained by, of those that read the teacher where there is one."""
    working = {}
    for name, method in shipped_methods().items():
        if method.after or (guide is not None and not method.needs_teacher):
            continue
        try:
            check_method(method, network, guide, problem)
        except UserError:
            continue
        working[name] = method
    return working


def _facts(
    student: nn.Module,
    teacher: Teacher | None,
    problem: Problem,
    method: Method,
    epochs: Mapping[str, int],
    settings: Settings,
) -> dict[str, Any]:
    """Everything that the bits of a run depend on, but for the student's weights, by the name of its argument."""
    machine = environment(torch.get_num_threads(), settings.device, settings.dtype)
    shapes = [(name, list(value.shape)) for name, value in student.state_dict().items()]
    return {
        "student": _short_hash(repr(shapes)),
        "teacher": None if teacher is None else _short_hash(teacher.outputs_key()),
        "data": problem.student.train.fingerprint(),
        "validation": problem.student.validation.fingerprint(),
        "method": _short_hash(_as_text(method, problem.relation)),
        "epochs": dict(epochs),
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "augment": settings.augment,
        **({} if problem.unlabelled is None else {"unlabelled": problem.unlabelled.fingerprint()}),
        **{key: machine[key] for key in ("versions", "threads", "device", "precision")},
    }


def _as_text(method: Method, relation: LabelRelation) -> str:
    """A method as JSON, without the keys that change nothing over a relation and that older runs do not state."""
    unread: dict[str, Any] = {}
    for name, stage in method.stages.items():
        keys = set() if method.uses_unlabelled else {"unlabelled_share"}
        if not stage.trades_labels or stage.unknown_rows == "published" or relation.overlap in (0, 1):
            keys.add("unknown_rows")
        unconditional = {term: {"where"} for term, content in stage.terms.items() if content.where is None}
        unread[name] = {**dict.fromkeys(keys, True), "terms": unconditional}
    return method.model_dump_json(exclude={"stages": unread})


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _begin(folder: Path, facts: Mapping[str, Any]) -> None:
    """Note what a run depends on in its folder, or refuse to continue one there that depends on something else."""
    path = folder / FIT
    if latest_checkpoint(folder / "checkpoints") is not None:  # before the first there is nothing to continue
        if not path.is_file():
            raise UserError(
                f"{folder} holds a run that gkd.fit did not begin; give another folder.", code="other-run"
            )
        held = read_json(path, keys=facts)
        others = [name for name, value in facts.items() if held[name] != value]
        if others:
            raise UserError(
                f"{folder} holds a run that differs from this call in {', '.join(others)}; repeat the call that began "
                "it, or give another folder.",
                code="other-run",
            )
    write_json(path, facts)
