"""Test-set evaluation of students and teachers: on images, and against an expected accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from gkd.models.pretrained import describe
from gkd.problems.judging import Outputs, Verdict
from gkd.problems.problem import Problem
from gkd.storage.judged import CONFIDENCE_AUC, Judged, NearChance, Probe, TeacherResult
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
    classes: Sequence[str] = (),
) -> Judged:
    """Accuracy in percent, of more than five classes also among the five best.

    Of a head also expected calibration error in percent and negative log-likelihood in nats.

    Args:
        logits: ``[N, C]``, or the scores of another classifier.
        labels: ``[N]``.
        method: says whether a head classifies; None where one does.
        by_head: whether a head classifies, where no method says it.
        added: the metrics that the experiment asks for (``evaluate.metrics``), which read ``relation``.
        classes: the names of the columns, where the accuracy on each class is asked for.
    """
    values = metrics.compute_metrics(added, logits, labels, relation)
    by_head = by_head if method is None else method.judged_by_head
    judged = Judged(
        accuracy=rounded(metrics.accuracy(logits, labels)),
        ece=rounded(metrics.expected_calibration_error(logits, labels)) if by_head else None,
        nll=rounded(metrics.negative_log_likelihood(logits, labels)) if by_head else None,
    )
    more: dict[str, object] = {}  # the file has no other keys
    if logits.shape[1] > 5:
        more["accuracy_top5"] = rounded(metrics.top5_accuracy(logits, labels))
    if classes:
        shares = metrics.class_accuracies(logits, labels)
        more["accuracy_per_class"] = {
            name: rounded(share) for name, share in zip(classes, shares, strict=True)
        }
    if values:
        more["metrics"] = {name: round(value, 4) for name, value in values.items()}
    return judged.model_copy(update=more)


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


def prove_teacher(
    teacher: Teacher,
    prepared: Prepared,
    checkpoint: Path | None,
    *,
    probing: bool = True,
    name: str | None = None,
) -> list[str]:
    """Judge a loaded teacher; a line with its results and input normalisation, and a warning.

    It is judged on its own classes. One that keeps classes which the data need not have is judged on those that the
    student shares, and by what its embedding knows of the student's (`probe`), which takes a pass over the student's
    training images; a dry run does without ``probing``. One of several is called by its ``name``.

    Raises:
        UserError: another accuracy than the experiment expects.
    """
    options, problem = teacher_section(prepared.experiment), prepared.problem
    own = expected_results(teacher, prepared, checkpoint)
    expected = "" if options.expect is None else f" (expected {options.expect})"
    parts = [] if own is None else [f"{own}{expected}, in float32"]
    if options.keeps_classes:
        if own is not None and own.shared_accuracy is not None:
            parts[-1] += f" ({own.shared_accuracy:.2f} % among the shared columns alone)"
        known = probe(teacher, problem, prepared.settings) if probing else None
        parts += [] if known is None else [str(known)]
    statistics = shown_statistics(teacher.mean or (), teacher.std or (), teacher.statistics_from)
    return [
        f"teacher   {'' if name is None else f'{name}, '}{options.network}: {'; '.join([*parts, statistics])}",
        *warnings_of(None if own is None else own.near, name),
    ]


def expected_results(teacher: Teacher, prepared: Prepared, checkpoint: Path | None) -> OwnResults | None:
    """A loaded teacher on test images of its own classes, as ``own_results`` has it.

    Raises:
        UserError: another accuracy than the experiment expects.
    """
    options = teacher_section(prepared.experiment)
    own = own_results(teacher, prepared.problem, prepared.settings)
    if own is not None:
        told = f"The teacher {checkpoint or options.network} has {own}"
        check_expected(options, own.accuracy, told, own.near)
    elif options.expect is not None:
        raise UserError(
            f"teacher.expect is {options.expect}, but the teacher shares no class with the student's images, so it has "
            "no accuracy here; drop teacher.expect.",
            code="nothing-to-expect",
        )
    return own


def shown_statistics(mean: Sequence[float], std: Sequence[float], source: str) -> str:
    """A teacher's input normalisation, and where it is from."""
    shown_mean, shown_std = (" ".join(f"{value:.4g}" for value in values) for values in (mean, std))
    return f"input mean {shown_mean}, std {shown_std} ({source})"


def warnings_of(near: NearChance | None, name: str | None = None) -> list[str]:
    """A line on a teacher, one of several by its name, that chance explains; none on any other."""
    called = "teacher" if name is None else f"teacher {name}"
    return [] if near is None else [f"WARNING   the {called} has {near}: {_CAUSES}"]


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


@dataclass(frozen=True)
class OwnResults:
    """A teacher on test images of its own classes.

    Attributes:
        accuracy: in percent, over all of its columns.
        near: its accuracy over the classes which it shares with the student, where chance explains it.
        images, classes: how many test images, and of how many classes.
        shared_accuracy: in percent, among the columns of the shared classes alone; None where those are all.
    """

    accuracy: float
    near: NearChance | None
    images: int
    classes: int
    shared_accuracy: float | None = None

    def __str__(self) -> str:
        return f"{self.accuracy:.2f} % of the {self.images} test images of its {self.classes} classes"


def own_results(teacher: Teacher, problem: Problem, settings: Settings) -> OwnResults | None:
    """A teacher on the test images of its own classes, in float32.

    Of classes that are not all among those that the task gives the teacher, the student's test images of the shared
    ones are taken; None where there is none.
    """
    relation = problem.relation
    if set(teacher.space) <= set(problem.teacher.test.space):
        test = problem.teacher.test.restrict(teacher.space)
        logits, _ = cached_predictions(teacher, test, in_float32(settings))
        labels = test.labels.cpu()
        near = chance_explains(logits, labels, relation)
        return OwnResults(metrics.accuracy(logits, labels), near, len(test), len(teacher.space))
    if relation.num_shared == 0:
        return None
    test = problem.student.test
    logits, _ = cached_predictions(teacher, test, in_float32(settings))
    columns = torch.full((len(relation.student),), -1).index_copy(
        0, relation.student_index, relation.teacher_index
    )
    labels = columns[test.labels.cpu()]
    rows = labels >= 0
    if not rows.any():
        return None
    logits, labels, shared = logits[rows], labels[rows], relation.teacher_index
    among_shared = shared[logits[:, shared].argmax(1)]
    return OwnResults(
        metrics.accuracy(logits, labels),
        chance_explains(logits, labels, relation),
        len(labels),
        relation.num_shared,
        100.0 * float((among_shared == labels).double().mean()),
    )


def probe(teacher: Teacher, problem: Problem, settings: Settings) -> Probe | None:
    """What a teacher's embedding knows of the student's classes, in float32, on the validation images.

    None where those are of other classes than the training images, or are the training images, as in a task of few
    images, which holds none out.
    """
    student, settings = problem.student, in_float32(settings)
    if not can_probe(problem):
        return None
    _, embedding = cached_predictions(teacher, student.validation, settings)
    _, train_embedding = cached_predictions(teacher, student.train, settings)
    labels, train_labels = student.validation.labels.cpu(), student.train.labels.cpu()
    sides = (embedding, labels, train_embedding, train_labels, len(student.space))
    return Probe(
        nearest_mean=rounded(metrics.ncm_accuracy(*sides)),
        nearest_neighbours=rounded(metrics.knn_accuracy(*sides)),
        images=len(labels),
    )


def can_probe(problem: Problem) -> bool:
    """Whether there are validation images of the student's classes that it is not trained on."""
    student = problem.student
    return student.held_out and student.validation.space == student.space


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
    own = own_results(teacher, problem, settings)
    test_logits, embedding = cached_predictions(teacher, student.test, in_float32(settings))
    _, train_embedding = cached_predictions(teacher, student.train, in_float32(settings))
    labels = student.test.labels.cpu()
    induced = metrics.ncm_accuracy(
        embedding, labels, train_embedding, student.train.labels.cpu(), len(student.space)
    )
    terms = [term for stage in prepared.experiment.method.stages.values() for term in stage.terms.values()]
    more: dict[str, object] = {}
    for kind in sorted({term.confidence for term in terms if term.confidence}):
        weights = teacher_confidence(test_logits, kind)
        more[f"{CONFIDENCE_AUC}{kind}"] = rounded(metrics.separation(weights, problem.relation.known[labels]))
    if own is not None and own.near is not None:
        more["near_chance"] = own.near
    section = prepared.experiment.teacher  # none where the student of the problem before teaches
    if section is not None and section.pretrained is not False:
        more["published"] = describe(section.network, section.pretrained).origin()
    if section is not None and section.keeps_classes:
        more["shared_accuracy"] = rounded(own.shared_accuracy) if own is not None else None
        more["probe"] = probe(teacher, problem, settings)
    result = TeacherResult(
        accuracy=None if own is None else rounded(own.accuracy),
        induced_accuracy=rounded(induced),
        hash=teacher.state_hash(),
    )
    return result.model_copy(update=more)


def teacher_outputs(teacher: Teacher, settings: Settings, name: str) -> Outputs:
    """A teacher's ``cached_predictions`` as a function of the images alone, of which it sees the view of its name."""

    def of(images: ImageSet) -> tuple[Tensor, Tensor]:
        seen = images.seen_by(name) if name in images.views else images
        return cached_predictions(teacher, seen, settings)

    return of


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
