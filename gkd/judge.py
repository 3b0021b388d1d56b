"""What students and teachers are worth: on test images, against an expectation, from a weight file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd import config, metrics, schema
from gkd.builders import Prepared, prepare, use_threads
from gkd.checkpoint import load_weights, read_weights, write_json
from gkd.data import ImageSet
from gkd.errors import UserError
from gkd.evaluate import base_mean, predict, teacher_predictions
from gkd.few_shot import EPISODES, Accuracies, FewShot, packed
from gkd.losses import class_centres, induced_logits, teacher_confidence
from gkd.method import Method
from gkd.metrics.few_shot import episode_correct
from gkd.settings import Settings
from gkd.task import Problem
from gkd.teacher import Teacher
from gkd.weight_facts import WeightFacts


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


def judge(logits: Tensor, labels: Tensor, method: Method | None = None) -> dict[str, Any]:
    """Accuracy in percent; of a head also expected calibration error in percent and negative log-likelihood in nats."""
    if method is not None and not method.judged_by_head:
        return {"accuracy": rounded(metrics.accuracy(logits, labels)), "ece": None, "nll": None}
    return {
        "accuracy": rounded(metrics.accuracy(logits, labels)),
        "ece": rounded(metrics.expected_calibration_error(logits, labels)),
        "nll": rounded(metrics.negative_log_likelihood(logits, labels)),
    }


def prove_teacher(teacher: Teacher, problem: Problem, prepared: Prepared, checkpoint: Path) -> str:
    """Judges a teacher that was loaded, and says what it is worth.

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


def teacher_results(teacher: Teacher, problem: Problem, prepared: Prepared) -> dict[str, Any]:
    """What the teacher is worth: on its own classes, and as a classifier it induces over the student's."""
    settings, student = prepared.settings, problem.student
    accuracy, _ = own_accuracy(teacher, problem, settings)
    test_logits, embedding = cached_predictions(teacher, student.test, settings)
    _, train_embedding = cached_predictions(teacher, student.train, settings)
    labels = student.test.labels.cpu()
    induced = metrics.ncm_accuracy(
        embedding, labels, train_embedding, student.train.labels.cpu(), len(student.space)
    )
    results: dict[str, Any] = {
        "accuracy": rounded(accuracy),
        "induced_accuracy": rounded(induced),
        "hash": teacher.state_hash(),
    }
    terms = [term for stage in prepared.experiment.method.stages.values() for term in stage.terms.values()]
    for kind in sorted({term.confidence for term in terms if term.confidence}):
        weights = teacher_confidence(test_logits, kind)
        results[f"confidence_auc/{kind}"] = rounded(
            metrics.separation(weights, problem.relation.known[labels])
        )
    return results


def on_episodes(network: nn.Module, problem: Problem, settings: Settings) -> Accuracies:
    """What a network's embedding is worth on the novel episodes of a few-shot task: the student's, or a teacher's."""
    few_shot = problem.few_shot
    assert few_shot is not None  # whoever asks has looked
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


def keep_episodes(folder: Path, few_shot: FewShot, accuracies: Mapping[str, Accuracies]) -> None:
    """Writes the novel episodes and what each network got right on each of them into a run folder."""
    queries = {setting: drawn.ways * drawn.queries for setting, drawn in few_shot.novel.settings()}
    for drawn in few_shot.novel.episodes:
        drawn.save(folder / f"episodes-{drawn.ways}-way.safetensors")
    drawn_as = few_shot.novel.names()
    content = {which: packed(values, queries, drawn_as) for which, values in accuracies.items()}
    write_json(folder / EPISODES, content)


def evaluate_checkpoint(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Judges the network in a weight file on the test images of a data set.

    Args:
        path: a weight file in any format that ``read_weights`` takes. What its metadata say (network, classes, mean,
            std) need not be given.
        overrides: ``a.b=c`` over an experiment of the standard task, such as ``data.name=cifar100`` and
            ``student.network=wrn_40_2``.

    Returns:
        ``network``, ``classes`` (their number), ``images`` (theirs), ``stated`` (the test accuracy in the file's
        metadata, or None) and what ``judge`` gives.

    Raises:
        UserError: no data set is named, or the file does not fit.
    """
    tensors, metadata = read_weights(path)
    facts = WeightFacts.read(metadata, path)
    if not any(override.startswith("data.") for override in overrides):
        raise UserError(
            f"gkd eval judges the weight file {path} on test images: name them, as in data.name=folder "
            "data.root=IMAGES.zip."
        )
    prepared = prepare(config.from_content(path.name, _experiment_of(facts), overrides))
    use_threads(prepared.experiment.run.threads)
    test = prepared.problem.student.test
    name = f"{prepared.experiment.student.network} with {len(test.space)} classes"
    load_weights(prepared.student, tensors, name=name, path=path)
    logits, _ = predict(prepared.student, test, prepared.settings)
    return {
        "network": prepared.experiment.student.network,
        "classes": len(test.space),
        "images": len(test),
        "stated": facts.test_accuracy,
        **judge(logits, test.labels.cpu()),
    }


def _experiment_of(facts: WeightFacts) -> dict[str, Any]:
    """What a weight file says of its network, as the sections of an experiment."""
    task: dict[str, Any] = {"name": "standard"}
    data = {key: getattr(facts, key) for key in ("mean", "std") if getattr(facts, key) is not None}
    student = {key: getattr(facts, key) for key in ("network", "options", "taps") if getattr(facts, key)}
    if facts.image_shape is not None:
        channels, height, width = facts.image_shape
        data.update({"channels": channels} if channels in (1, 3) else {})
        data.update({"image_size": height} if height == width else {})
    if facts.classes is not None:
        task["classes"] = {"names": facts.classes}
    run = {"precision": "float32"}  # the file's own worth, not that of this machine's bf16
    return {"task": task, "data": data, "student": student, "method": "student", "run": run}


_PREDICTIONS: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}


def cached_predictions(teacher: Teacher, images: ImageSet, settings: Settings) -> tuple[Tensor, Tensor]:
    """A teacher's outputs on an image set; the last few are kept, because the cells of a grid share them."""
    key = (f"{teacher.outputs_key()} {settings.dtype}", images.as_teacher_sees.fingerprint())
    if key not in _PREDICTIONS:
        if len(_PREDICTIONS) >= 16:
            _PREDICTIONS.pop(next(iter(_PREDICTIONS)))
        _PREDICTIONS[key] = teacher_predictions(teacher, images, settings)
    return _PREDICTIONS[key]


def rounded(value: float | None) -> float | None:
    """To four decimals, as summaries keep numbers."""
    return None if value is None else round(value, 4)
