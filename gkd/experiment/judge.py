"""Test-set evaluation of students and teachers: on images, on novel episodes, and against an expected accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd import metrics
from gkd.config import schema
from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation
from gkd.data import ImageSet
from gkd.distill.teacher import Teacher
from gkd.experiment.prepare import Prepared
from gkd.few_shot.classifiers import episode_correct
from gkd.few_shot.judging import Accuracies, FewShot, packed
from gkd.losses import class_centres, induced_logits, teacher_confidence
from gkd.methods.method import Method
from gkd.problems.problem import Problem
from gkd.storage.judged import CONFIDENCE_AUC, EpisodeAnswers, Judged, TeacherResult
from gkd.storage.records import write_record
from gkd.storage.run_files import EPISODES
from gkd.training.predictions import base_mean, predict, teacher_predictions
from gkd.training.settings import Settings


def class_scores(student: nn.Module, problem: Problem, method: Method, settings: Settings) -> Tensor:
    """``[N, C]`` of the test images: the head's logits, or where it does not answer cosines to the class means.

    The means are those of the training images, un-augmented.
    """
    logits, embedding = predict(student, problem.student.test, settings)
    if method.judged_by_head:
        return logits
    train = problem.student.train
    _, known = predict(student, train, settings)
    centres, _ = class_centres(known, train.labels.cpu(), len(train.space))
    return induced_logits(F.normalize(embedding, dim=1), centres)


def judge(
    logits: Tensor,
    labels: Tensor,
    method: Method | None = None,
    *,
    added: Sequence[str] = (),
    relation: LabelRelation | None = None,
) -> Judged:
    """Accuracy in percent; of a head also expected calibration error in percent and negative log-likelihood in nats.

    Args:
        logits: ``[N, C]``, or what answers in their place.
        labels: ``[N]``.
        method: says whether a head answers; None where one does.
        added: the metrics that the experiment asks for (``evaluate.metrics``), which read ``relation``.
    """
    values = metrics.compute_metrics(added, logits, labels, relation)
    judged = Judged(
        accuracy=rounded(metrics.accuracy(logits, labels)),
        metrics={name: round(value, 4) for name, value in values.items()},
    )
    if method is not None and not method.judged_by_head:
        return judged
    of_head = {
        "ece": rounded(metrics.expected_calibration_error(logits, labels)),
        "nll": rounded(metrics.negative_log_likelihood(logits, labels)),
    }
    return judged.model_copy(update=of_head)


def prove_teacher(teacher: Teacher, problem: Problem, prepared: Prepared, checkpoint: Path) -> str:
    """Judges a loaded teacher on its own classes; a line with its accuracy.

    Raises:
        UserError: another accuracy than the experiment expects.
    """
    options = prepared.experiment.teacher
    assert options is not None
    accuracy, count = own_accuracy(teacher, problem, prepared.settings)
    told = f"{accuracy:.2f} % of the {count} test images of its {len(teacher.space)} classes"
    if options.expect is None:
        return f"teacher   {options.network}: {told}"
    check_expected(options, accuracy, f"The teacher {checkpoint} has {told}")
    return f"teacher   {options.network}: {told} (expected {options.expect})"


def check_expected(options: schema.Teacher, accuracy: float, told: str) -> None:
    """Refuses an accuracy in percent that is not what the experiment expects; ``told`` begins the sentence."""
    if options.expect is None:
        return
    expected, tolerance = map(float, options.expect.split("±"))
    if abs(accuracy - expected) > tolerance:
        why = (
            "it is another file, its columns are in another order of the classes, or its input is normalised in "
            "another way (teacher.mean, teacher.std); put that right, or change teacher.expect"
        )
        if options.checkpoint is None:
            why = "it was trained here, as teacher.train says; change that or teacher.expect"
        raise UserError(f"{told}, but teacher.expect is {options.expect}: {why}.")


def own_accuracy(teacher: Teacher, problem: Problem, settings: Settings) -> tuple[float, int]:
    """A teacher's accuracy in percent on the test images of its own classes, and how many they are."""
    own = problem.teacher.test.restrict(teacher.space)
    logits, _ = cached_predictions(teacher, own, settings)
    return metrics.accuracy(logits, own.labels.cpu()), len(own)


def teacher_results(teacher: Teacher, problem: Problem, prepared: Prepared) -> TeacherResult:
    """Accuracy of a teacher on its own classes, and of the classifier that its embedding induces over the student's."""
    settings, student = prepared.settings, problem.student
    accuracy, _ = own_accuracy(teacher, problem, settings)
    test_logits, embedding = cached_predictions(teacher, student.test, settings)
    _, train_embedding = cached_predictions(teacher, student.train, settings)
    labels = student.test.labels.cpu()
    induced = metrics.ncm_accuracy(
        embedding, labels, train_embedding, student.train.labels.cpu(), len(student.space)
    )
    terms = [term for stage in prepared.experiment.method.stages.values() for term in stage.terms.values()]
    auc: dict[str, float | None] = {}
    for kind in sorted({term.confidence for term in terms if term.confidence}):
        weights = teacher_confidence(test_logits, kind)
        auc[f"{CONFIDENCE_AUC}{kind}"] = rounded(metrics.separation(weights, problem.relation.known[labels]))
    result = TeacherResult(
        accuracy=rounded(accuracy), induced_accuracy=rounded(induced), hash=teacher.state_hash()
    )
    return result.model_copy(update=auc)


def on_episodes(network: nn.Module, problem: Problem, settings: Settings) -> Accuracies:
    """Accuracies of a student's or a teacher's embedding on the novel episodes of a few-shot task."""
    few_shot = problem.few_shot
    assert few_shot is not None  # callers check few_shot
    novel, base = few_shot.novel.images, problem.student.train
    mean = None
    if isinstance(network, Teacher):
        _, embedding = cached_predictions(network, novel, settings)
        mean = cached_predictions(network, base, settings)[1].mean(0) if few_shot.needs_base_mean else None
    else:
        _, embedding = predict(network, novel, settings)
        mean = base_mean(network, problem, settings) if few_shot.needs_base_mean else None
    return few_shot.novel.accuracies(embedding, few_shot.classifiers, mean)


def on_frozen(student: nn.Module, problem: Problem, settings: Settings) -> dict[str, Tensor]:
    """Which test images the problem's ``frozen`` classifiers get right, Bool ``[N]``, as the student starts."""
    if not problem.frozen:
        return {}
    train, test, ways = problem.student.train, problem.student.test, len(problem.student.space)
    (_, known), (_, asked) = predict(student, train, settings), predict(student, test, settings)
    support = torch.arange(len(train)).view(1, ways, -1)
    query = len(train) + torch.arange(len(test)).view(1, ways, -1)
    rows = torch.cat([known, asked])
    return {name: episode_correct(rows, support, query, name).flatten() for name in problem.frozen}


def keep_episodes(
    folder: Path, few_shot: FewShot, accuracies: Mapping[str, Accuracies], teacher: Accuracies | None
) -> None:
    """Writes the novel episodes, and the answers of the last and best student and of the teacher, into a run folder."""
    queries = {setting: drawn.ways * drawn.queries for setting, drawn in few_shot.novel.settings()}
    for drawn in few_shot.novel.episodes:
        drawn.save(folder / f"episodes-{drawn.ways}-way.safetensors")
    drawn_as = few_shot.novel.names()
    last, best = (packed(accuracies[which], queries, drawn_as) for which in ("last", "best"))
    answers = EpisodeAnswers(last=last, best=best)
    if teacher is not None:
        answers = EpisodeAnswers(last=last, best=best, teacher=packed(teacher, queries, drawn_as))
    write_record(folder / EPISODES, answers)


def cached_predictions(teacher: Teacher, images: ImageSet, settings: Settings) -> tuple[Tensor, Tensor]:
    """A teacher's outputs on an image set, from the settings' caches: the cells of a grid share them."""
    key = (f"{teacher.outputs_key()} {settings.dtype}", images.as_teacher_sees.fingerprint())
    return settings.caches.predictions.get(key, lambda: teacher_predictions(teacher, images, settings))


@overload
def rounded(value: float) -> float: ...
@overload
def rounded(value: None) -> None: ...
@overload
def rounded(value: float | None) -> float | None: ...
def rounded(value: float | None) -> float | None:
    """To four decimals, as summaries keep numbers."""
    return None if value is None else round(value, 4)
