"""Judge a finished run's students again, or the network in a weight file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gkd.config.load import from_content, load
from gkd.config.resolve import override_layers
from gkd.config.shipped import load_method
from gkd.config.trust import named_in
from gkd.core.class_means import cosines_to_means
from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.core.user_code import told_of
from gkd.data import LAYOUTS, ImageSet
from gkd.experiment.judge import judge, with_verdict
from gkd.experiment.networks import load_network
from gkd.experiment.prepare import Prepared, prepare
from gkd.experiment.run_folder import finished, said_below
from gkd.methods.method import Method
from gkd.problems.problem import Problem
from gkd.problems.task import PLAIN, plain_task, task_of
from gkd.storage.judged import Judged
from gkd.storage.preprocessing import CLASS_MEANS, HEAD
from gkd.storage.run_files import WEIGHTS
from gkd.storage.weight_metadata import WeightMetadata
from gkd.training.device import use_threads
from gkd.training.predictions import predict, student_outputs
from gkd.training.settings import Settings


@dataclass(frozen=True)
class FileEvaluation:
    """Test-set evaluation of the network in a weight file.

    Attributes:
        network: its name.
        task: as which it is judged.
        leak: novel classes that it was trained on, as far as the task knows.
        classes, images: how many classes it has, and how many test images they have.
        stated: the test accuracy in percent that the file's metadata state; None where they state none.
        judged: the results.
        answers: the classifier that was judged: ``head``, or class means that the file holds.
        notes: what a user should know of how the file was read.
    """

    network: str
    task: str
    classes: int
    images: int
    stated: float | None
    judged: Judged
    leak: Sequence[str] = ()
    answers: str = HEAD
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunEvaluation:
    """Test-set evaluation of a finished run's students.

    Attributes:
        config, method, seed: which run it is.
        leak: novel classes that the teacher was trained on.
        judged: ``last`` and ``best`` -> results.
    """

    config: str
    method: str
    seed: int
    leak: Sequence[str]
    judged: dict[str, Judged]


def evaluate_checkpoint(path: Path, overrides: Sequence[str]) -> FileEvaluation:
    """Judge the network in a weight file on the test images of a data set.

    Args:
        path: a weight file in any format that ``read_weights`` takes. What its metadata say (network, classes, mean,
            std) need not be given.
        overrides: ``a.b=c`` over an experiment of the standard task, or of the one that ``task.name`` says, such as
            ``data.name=cifar100`` and ``student.network=wrn_40_2``, or ``student.checkpoint_key=state_dict_ema`` for
            another entry of the file.

    Raises:
        UserError: no data set is named, or the file does not fit.
    """
    metadata = WeightMetadata.read(path)
    if _stated(overrides, "data") is None:
        raise UserError(
            f"gkd eval judges the weight file {path} on test images: name them, as in data.name=folder "
            "data.root=IMAGES.zip.",
            code="no-data-set",
        )
    content = _experiment_of(metadata, _name_of(_stated(overrides, "data")) in LAYOUTS)
    content["student"]["checkpoint"] = str(path)  # so that an override may name an entry of it
    task = _name_of(_stated(overrides, "task"))
    if task not in (None, PLAIN):  # the file's classes are options of the plain task
        content["task"] = {"name": task}
    resolved = from_content(path.name, content, overrides)
    experiment = resolved.experiment
    section = experiment.student
    alone = {
        "student": section.model_copy(update={"checkpoint": None}),
        "task": task_of(experiment.task).for_judging(),
    }
    prepared = prepare(replace(resolved, experiment=experiment.model_copy(update=alone)), final=True)
    use_threads(prepared.experiment.run.threads)
    problem = prepared.problem.of_file()
    images, test = problem.student, problem.student.test
    columns = _columns(metadata, path, images.space)
    loaded = load_network(section, path, test, len(images.space))
    network = loaded.network
    network.to(prepared.settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    _, embedding = predict(network, test, prepared.settings)
    answers, notes = _answers_of(path, metadata, embedding.shape[1])
    means = metadata.class_means if answers != HEAD else None

    def outputs(of: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
        logits, embedding = predict(network, of, prepared.settings)
        scores = logits if means is None else cosines_to_means(embedding, means)
        return scores[:, columns], embedding

    logits = problem.judging.scores(outputs, images, by_head=True)
    judged = judge(
        logits,
        test.labels.cpu(),
        added=prepared.experiment.evaluate.metrics,
        relation=problem.relation,
        by_head=answers == HEAD,
    )
    frozen = problem.judging.before_training(outputs, images)
    on_embedding = {f"frozen/{name}": 100 * float(right.double().mean()) for name, right in frozen.items()}
    judged = judged.model_copy(update={"metrics": {**judged.metrics, **on_embedding}})
    with told_of(problem.judging, "the task judges the student"):
        verdict = problem.judging.judge(outputs, images)
    return FileEvaluation(
        network=section.network,
        task=experiment.task.name,
        classes=len(images.space),
        images=len(test),
        stated=metadata.test_accuracy,
        answers=answers,
        notes=(*loaded.notes, *notes),
        leak=problem.leak,
        judged=with_verdict(judged, verdict),
    )


def _stated(overrides: Sequence[str], section: str) -> dict[str, Any] | None:
    """The keys of a section that overrides state, as they are written; None where they state none."""
    layers = [layer.content.get(section) for layer in override_layers(overrides)]
    contents = [content for content in layers if isinstance(content, Mapping)]
    return {key: value for content in contents for key, value in content.items()} if contents else None


def _name_of(section: Mapping[str, Any] | None) -> str | None:
    name = None if section is None else section.get("name")
    return None if name is None else str(name)


def _columns(metadata: WeightMetadata, path: Path, space: LabelSpace) -> torch.Tensor:
    """The file's column of each class of the task, int64 ``[C]``; of a file that says no classes the same columns.

    Raises:
        UserError: a file of other classes.
    """
    if metadata.classes is None:
        return torch.arange(len(space))
    if set(metadata.classes) != set(space):
        shown = ", ".join(metadata.classes[:10]) + (", ..." if len(metadata.classes) > 10 else "")
        raise UserError(
            f"{path} has a column for each of {len(metadata.classes)} classes ({shown}), but the task has the student "
            f"classes {', '.join(space.names[:10])}{', ...' if len(space) > 10 else ''}; choose the task's to match.",
            code="other-classes",
        )
    return torch.tensor([metadata.classes.index(name) for name in space])


def _answers_of(path: Path, metadata: WeightMetadata, dimension: int) -> tuple[str, list[str]]:
    """The classifier that answers for a weight file, and a note where its run was judged by another one.

    Args:
        path: the file.
        metadata: the file's.
        dimension: of the network's embedding.
    """
    said = None if metadata.preprocessing is None else metadata.preprocessing.answers
    if said is None:  # of a file from before it said so
        beside = finished(path.parent)
        by_head = metadata.method is None or _judged_by_head(metadata.method)
        said = beside.judged_by if beside is not None else HEAD if by_head else CLASS_MEANS
    if said == HEAD:
        return HEAD, []
    if metadata.class_means is not None and metadata.class_means.shape[1] == dimension:
        return said, []
    run = path.parent if finished(path.parent) is not None else "RUN"
    return HEAD, [
        f"{path}: its run is judged by the {said}, and the file does not hold them: they come from the run's folder "
        f"(gkd eval {run}); here its head answers, which answers otherwise"
    ]


def _judged_by_head(method: str) -> bool:
    """Whether a method's student is judged by its head; so is that of a method that is not known here."""
    try:
        return load_method(method).judged_by_head
    except UserError:
        return True


def _experiment_of(metadata: WeightMetadata, image_files: bool) -> dict[str, Any]:
    """The sections of an experiment on the network in a weight file, from the file's metadata.

    Args:
        metadata: the file's.
        image_files: whether it is judged on photographs, which have to be read as those that it was trained on.
    """
    data = {key: getattr(metadata, key) for key in ("mean", "std") if getattr(metadata, key) is not None}
    student = {
        key: getattr(metadata, key) for key in ("network", "options", "taps") if getattr(metadata, key)
    }
    if metadata.image_shape is not None:
        channels, height, width = metadata.image_shape
        data.update({"channels": channels} if channels in (1, 3) else {})
        data.update({"image_size": height} if height == width else {})
        if image_files and height == width and metadata.preprocessing is not None:
            data.update(metadata.preprocessing.data_keys())
    run = {"precision": "float32"}  # the file's accuracy, whatever this machine's precision
    return {
        "task": plain_task(metadata.classes),
        "data": data,
        "student": student,
        "method": "student",
        "run": run,
    }


def evaluate_run(
    folder: Path, overrides: Sequence[str] = (), *, vouched: frozenset[str] = frozenset()
) -> RunEvaluation:
    """Judge a finished run's saved students on its test images again.

    Args:
        folder: the run's.
        overrides: ``a.b=c`` over its config, such as where the images are now.
        vouched: modules that the user has named elsewhere (``gkd.config.trust``).

    Raises:
        UserError: no run there, an unfinished one, or images that are not the run's.
    """
    summary = finished(folder)
    if summary is None:
        if not folder.is_dir():
            raise UserError(
                f"There is no {folder}; gkd eval takes the folder of a finished run, or a weight file.",
                code="not-a-finished-run",
            )
        raise UserError(
            f"The run {folder} is not finished; repeat its command to continue it. gkd eval takes a folder that holds "
            f"summary.json, or a weight file.{said_below(folder)}",
            code="not-a-finished-run",
        )
    prepared, method = final_problem(folder, overrides, vouched=vouched)
    use_threads(prepared.experiment.run.threads)
    test = prepared.problem.student.test
    results: dict[str, Judged] = {}
    for which, name in WEIGHTS.items():
        names, columns = prepared.problem.student.space.names, WeightMetadata.read(folder / name).classes
        if columns is not None and names != columns:
            raise UserError(
                f"The student of {folder} knows {', '.join(columns)}, but the overrides make the task "
                f"{', '.join(names)}; override only where the images are (data.root) and what changes no result.",
                code="other-classes",
            )
        section, images = prepared.experiment.student, prepared.problem.student.train
        student = load_network(section, folder / name, images, len(names)).network
        student.to(prepared.settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        problem, outputs = prepared.problem, student_outputs(student, prepared.settings)
        judged = judge(
            final_answers(student, problem, method, prepared.settings),
            test.labels.cpu(),
            method,
            added=prepared.experiment.evaluate.metrics,
            relation=problem.relation,
        )
        with told_of(problem.judging, "the task judges the student"):
            verdict = problem.judging.judge(outputs, problem.student)
        results[which] = with_verdict(judged, verdict)
    return RunEvaluation(summary.config, summary.method, summary.seed, summary.leak, results)


# Of a run whose student is judged again: these may be gone.
_NOT_NEEDED = ("student.checkpoint", "student.checkpoint_key", "teacher", "teachers")


def final_problem(
    folder: Path, overrides: Sequence[str] = (), *, vouched: frozenset[str] = frozenset()
) -> tuple[Prepared, Method]:
    """A finished run prepared to judge its students, without a teacher, and the method whose classifier they use.

    Args:
        folder: the run's.
        overrides: ``a.b=c`` over its config.
        vouched: modules that the user has named elsewhere.
    """
    # The student's checkpoint, its teacher and its losses are not needed any more, and may be gone.
    vouched |= named_in(layer.content for layer in override_layers(overrides))
    read = partial(load, folder / "config.yaml", from_run=True, vouched=vouched)
    method = read(overrides).experiment.method
    others = [word for word in overrides if re.split("[.=]", word)[0] not in ("method", "optimiser")]
    resolved = read([*others, *(f"{key}=null" for key in _NOT_NEEDED), "method=student"])
    experiment = resolved.experiment
    task = task_of(experiment.task).for_judging()
    alone = replace(resolved, experiment=experiment.model_copy(update={"task": task}))
    prepared = prepare(alone, final=True)
    return prepared.with_problem(prepared.problem.finished(folder)), method


def final_answers(student: nn.Module, problem: Problem, method: Method, settings: Settings) -> torch.Tensor:
    """``[N, C]``: scores of a problem's test images by a trained student's classifier, a head or class means."""
    outputs = student_outputs(student, settings)
    return problem.judging.scores(outputs, problem.student, by_head=method.judged_by_head)
