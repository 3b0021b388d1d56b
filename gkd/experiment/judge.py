"""Test-set evaluation of students and teachers: on images, and against an expected accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from gkd import metrics
from gkd.config import schema
from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation
from gkd.data import ImageSet
from gkd.distill.teacher import Teacher
from gkd.experiment.networks import teacher_section
from gkd.experiment.prepare import Prepared
from gkd.losses import teacher_confidence
from gkd.methods.method import Method
from gkd.problems.judging import Outputs, Verdict
from gkd.problems.problem import Problem
from gkd.storage.judged import CONFIDENCE_AUC, Judged, NearChance, TeacherResult
from gkd.training.predictions import teacher_predictions
from gkd.training.settings import Settings


def judge(
    logits: Tensor,
    labels: Tensor,
    method: Method | None = None,
    *,
    added: Sequence[str] = (),
    relation: LabelRelation | None = None,
    by_head: bool = True,
) -> Judged:
    """Accuracy in percent; of a head also expected calibration error in percent and negative log-likelihood in nats.

    Args:
        logits: ``[N, C]``, or the scores of another classifier.
        labels: ``[N]``.
        method: says whether a head classifies; None where one does.
        by_head: whether a head classifies, where no method says it.
        added: the metrics that the experiment asks for (``evaluate.metrics``), which read ``relation``.
    """
    values = metrics.compute_metrics(added, logits, labels, relation)
    by_head = by_head if method is None else method.judged_by_head
    judged = Judged(
        accuracy=rounded(metrics.accuracy(logits, labels)),
        ece=rounded(metrics.expected_calibration_error(logits, labels)) if by_head else None,
        nll=rounded(metrics.negative_log_likelihood(logits, labels)) if by_head else None,
    )
    if not values:  # the file then has no such key
        return judged
    return judged.model_copy(update={"metrics": {name: round(value, 4) for name, value in values.items()}})


def with_verdict(judged: Judged, verdict: Verdict, teacher: Verdict | None = None) -> Judged:
    """A student's results with those of the task's own judging, and of their comparison with the teacher's.

    Raises:
        UserError: a metric of the task's that is not finite.
    """
    results = verdict.results(teacher)
    for name, value in verdict.metrics.items():
        metrics.check_finite(name, value, "the test images")
    if verdict.metrics:
        results["metrics"] = {**judged.metrics, **verdict.metrics}
    return judged.model_copy(update=results)


def prove_teacher(teacher: Teacher, prepared: Prepared, checkpoint: Path) -> list[str]:
    """Judge a loaded teacher on its own classes; a line with its accuracy and input normalisation, and a warning.

    Raises:
        UserError: another accuracy than the experiment expects.
    """
    options = teacher_section(prepared.experiment)
    accuracy, near, count = own_results(teacher, prepared.problem, prepared.settings)
    result = f"{accuracy:.2f} % of the {count} test images of its {len(teacher.space)} classes"
    check_expected(options, accuracy, f"The teacher {checkpoint} has {result}", near)
    expected = "" if options.expect is None else f" (expected {options.expect})"
    statistics = shown_statistics(teacher.mean or (), teacher.std or (), teacher.statistics_from)
    return [
        f"teacher   {options.network}: {result}{expected}, in float32; {statistics}",
        *warnings_of(near),
    ]


def shown_statistics(mean: Sequence[float], std: Sequence[float], source: str) -> str:
    """A teacher's input normalisation, and where it is from."""
    shown_mean, shown_std = (" ".join(f"{value:.4g}" for value in values) for values in (mean, std))
    return f"input mean {shown_mean}, std {shown_std} ({source})"


def warnings_of(near: NearChance | None) -> list[str]:
    """A line on a teacher that chance explains; none on any other."""
    return [] if near is None else [f"WARNING   the teacher has {near}: {_CAUSES}"]


_CAUSES = (
    "its columns are perhaps in another order of the classes, its input is normalised in another way (teacher.mean, "
    "teacher.std), or it is not trained; teacher.expect=auto refuses such a teacher"
)


def check_expected(
    options: schema.Teacher, accuracy: float, told: str, near: NearChance | None = None
) -> None:
    """Refuse an accuracy in percent that is not what the experiment expects; ``told`` begins the sentence."""
    if options.expect is None:
        return
    why = (
        "it is another file, its columns are in another order of the classes, or its input is normalised in "
        "another way (teacher.mean, teacher.std); put that right, or change teacher.expect"
    )
    if options.checkpoint is None:
        why = "it was trained here, as teacher.train says; change that or teacher.expect"
    if options.expect == schema.ABOVE_CHANCE:
        if near is not None:
            raise UserError(
                f"{told}, and {near}, but teacher.expect is {options.expect}: {why}.", code="near-chance"
            )
        return
    expected, tolerance = map(float, options.expect.split("±"))
    if abs(accuracy - expected) > tolerance:
        raise UserError(f"{told}, but teacher.expect is {options.expect}: {why}.", code="other-accuracy")


def own_results(
    teacher: Teacher, problem: Problem, settings: Settings
) -> tuple[float, NearChance | None, int]:
    """A teacher on the test images of its own classes, in float32.

    Returns:
        Its accuracy in percent; that over the classes which it shares with the student, where chance explains it; the
        number of the images.
    """
    test = problem.teacher.test.restrict(teacher.space)
    logits, _ = cached_predictions(teacher, test, in_float32(settings))
    labels = test.labels.cpu()
    return metrics.accuracy(logits, labels), chance_explains(logits, labels, problem.relation), len(test)


def chance_explains(logits: Tensor, labels: Tensor, relation: LabelRelation) -> NearChance | None:
    """`NearChance` of answers among the shared classes; None where they are above chance, or cannot be judged so.

    Of k classes and n images chance is ``c = 1/k`` right, with a standard error of ``sqrt(c (1 - c) / n)``.

    Args:
        logits: ``[N, C]`` in the teacher's columns.
        labels: int64 ``[N]``, the teacher's columns.
        relation: teacher against student classes.
    """
    columns = relation.teacher_index
    rows = torch.isin(labels, columns)
    count, classes = int(rows.sum()), len(columns)
    if classes < 2 or count == 0:
        return None
    answers = columns[logits[rows][:, columns].argmax(1)]
    accuracy = float((answers == labels[rows]).double().mean())
    chance = 1 / classes
    limit = min(chance + 3 * (chance * (1 - chance) / count) ** 0.5, 1.0)
    if accuracy >= limit:
        return None
    return NearChance(
        accuracy=rounded(100 * accuracy), limit=rounded(100 * limit), images=count, classes=classes
    )


def in_float32(settings: Settings) -> Settings:
    """The settings with which a teacher is judged: a weight file's accuracy does not depend on the machine."""
    return replace(settings, dtype=torch.float32)


def teacher_results(teacher: Teacher, prepared: Prepared) -> TeacherResult:
    """Accuracy of a teacher on its own classes, and of the classifier that its embedding induces over the student's."""
    settings, problem = prepared.settings, prepared.problem
    student = problem.student
    accuracy, near, _ = own_results(teacher, problem, settings)
    test_logits, embedding = cached_predictions(teacher, student.test, in_float32(settings))
    _, train_embedding = cached_predictions(teacher, student.train, in_float32(settings))
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
    return result.model_copy(update=auc if near is None else {**auc, "near_chance": near})


def teacher_outputs(teacher: Teacher, settings: Settings) -> Outputs:
    """A teacher's ``cached_predictions`` as a function of the images alone."""
    return partial(cached_predictions, teacher, settings=settings)


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
    """Round to four decimals, as summaries keep numbers."""
    return None if value is None else round(value, 4)
