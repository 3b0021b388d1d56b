"""Files of a finished run: the students' weights, their correctness on the test images, and the summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from torch import Tensor, nn

from gkd import metrics
from gkd.config.peers import peer_of
from gkd.core.labels import LabelRelation
from gkd.core.user_code import told_of
from gkd.distill.side import Guides, by_name
from gkd.experiment.environment import command, environment
from gkd.experiment.extension import read_origin
from gkd.experiment.generations import generations_results
from gkd.experiment.judge import (
    cached_predictions,
    judge,
    rounded,
    teacher_outputs,
    teacher_results,
    with_verdict,
)
from gkd.experiment.prepare import Prepared
from gkd.experiment.run_folder import write_summary
from gkd.models import EXTRACTORS, PROJECTOR, ProjectedNetwork, count_parameters, num_extractors
from gkd.problems.judging import Verdict
from gkd.storage.confusion_file import write_confusion
from gkd.storage.judged import Correctness, Judged, RelationFacts, TeacherResult
from gkd.storage.preprocessing import CLASS_MEANS, HEAD, Preprocessing
from gkd.storage.records import VERSION, write_record
from gkd.storage.run_files import CONFUSION, CORRECT, FROZEN, PEER_WEIGHTS, WEIGHTS, pack
from gkd.storage.run_results import PeerResult, RunSummary
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weights import save_weights
from gkd.training.meter import MetricsFile
from gkd.training.predictions import remembered, student_outputs
from gkd.training.stage_run import Position, State


class RunFacts(TypedDict):
    """The part of every run's summary about its experiment and the machine."""

    config: str
    identity: str
    method: str
    seed: int
    relation: RelationFacts
    test_images: int
    versions: dict[str, str]
    threads: int
    device: str
    precision: str
    commit: str | None
    command: str


def run_facts(prepared: Prepared, threads: int) -> RunFacts:
    """Facts for a summary: the experiment, its test images, and the machine with ``threads`` CPU threads."""
    resolved, settings, problem = prepared.resolved, prepared.settings, prepared.problem
    return {
        "config": resolved.name,
        "identity": resolved.identity,
        "method": prepared.experiment.method.name,
        "seed": settings.seed,
        "relation": describe_relation(problem.relation),
        "test_images": len(problem.student.test),
        **environment(threads, settings.device, settings.dtype),
        "command": command(),
    }


@dataclass(frozen=True)
class Trained:
    """A student after its training; its problem and network are those of the run's ``Prepared``.

    Attributes:
        teacher: its teacher, or several by name; None where it had none.
        last, best: its states after the last epoch and after the one that validation chose.
        position: where training ended.
        before: name -> which test images a classifier on the embedding gets right before training, Bool ``[N]``.
        peers: the ``last`` and ``best`` state of the second student; None where one was trained.
    """

    teacher: Guides
    last: State
    best: State
    position: Position
    before: Mapping[str, Tensor]
    peers: Mapping[str, State] | None = None


def finish(folder: Path, prepared: Prepared, trained: Trained, threads: int) -> RunSummary:
    """Judge last and best on test, once; write the students, their correctness, confusions and the summary.

    Args:
        folder: the run's.
        prepared: the run, at the problem that was solved.
        trained: its student.
        threads: CPU threads that were used.
    """
    method, problem, position = prepared.experiment.method, prepared.problem, trained.position
    judged, taught, correct = _judged(folder, prepared, trained)
    validated = {"epoch": position.best_epoch, "validation": rounded(position.best_metric)}
    correct |= {f"{FROZEN}{name}": pack(right) for name, right in trained.before.items()}
    write_record(folder / CORRECT, Correctness.of(len(problem.student.test), correct))
    summary = RunSummary(
        version=VERSION,
        kind=problem.judging.kind,
        judged_by=HEAD if method.judged_by_head else CLASS_MEANS,
        epochs=prepared.epochs,
        note="last: the last epoch; best: the epoch that validation chose; each judged on test once, at the end",
        last=judged["last"],
        best=judged["best"].model_copy(update=validated),
        teacher=next(iter(taught.values()), None),
        leak=list(problem.leak),
        empty_batches=empty_batches(folder),
        images_per_second=round(position.images / max(position.seconds, 1e-9), 1),
        seconds=round(position.seconds, 2),
        parameters=count_parameters(prepared.student),
        **run_facts(prepared, threads),
    )
    if isinstance(trained.teacher, Mapping):
        summary = summary.model_copy(update={"teachers": taught})
    if trained.peers is not None:
        summary = summary.model_copy(update={"peer": _judged_peer(folder, prepared, trained.peers)})
    if prepared.generation > 1:
        summary = summary.model_copy(update=generations_results(folder, prepared, summary))
    if (origin := read_origin(folder)) is not None:
        summary = summary.model_copy(update={"origin": origin})
    write_summary(folder, summary)
    return summary


def _judged(
    folder: Path, prepared: Prepared, trained: Trained
) -> tuple[dict[str, Judged], dict[str, TeacherResult], dict[str, str]]:
    """Results of last and best, and of each teacher, and what the students got right, packed; writes the students."""
    settings, student, method = prepared.settings, prepared.student, prepared.experiment.method
    images, judging = prepared.problem.student, prepared.problem.judging
    teachers = by_name(trained.teacher)
    first = next(iter(teachers), None)
    labels = images.test.labels.cpu()
    judged: dict[str, Judged] = {}
    correct: dict[str, str] = {}
    verdicts: dict[str, Verdict] = {}
    for which, state in (("last", trained.last), ("best", trained.best)):
        student.load_state_dict(state)
        outputs = remembered(student_outputs(student, settings))
        logits = judging.scores(outputs, images, by_head=method.judged_by_head)
        added, relation = prepared.experiment.evaluate.metrics, prepared.problem.relation
        names = images.space.names
        judged[which] = judge(logits, labels, method, added=added, relation=relation, classes=names)
        write_confusion(folder / CONFUSION[which], names, metrics.confusion_matrix(logits, labels))
        correct[which] = pack(metrics.correctness(logits, labels))
        if first is not None:  # of several the first
            seen = prepared.problem.seen_by(first, images.test)
            teacher_logits, _ = cached_predictions(teachers[first], seen, settings)
            agreement = rounded(metrics.agreement(logits, teacher_logits, prepared.problem.relation))
            judged[which] = judged[which].model_copy(update={"agreement": agreement})
        with told_of(judging, "the task judges the student"):
            verdicts[which] = judging.judge(outputs, images)
        metadata = weight_metadata(prepared, HEAD if method.judged_by_head else CLASS_MEANS)
        if method.judged_by_head:
            metadata = replace(metadata, test_accuracy=judged[which].accuracy)
        else:
            metadata = replace(metadata, class_means=judging.class_means(outputs, images))
        save_weights(folder / WEIGHTS[which], state, metadata.to_header())
    results: dict[str, TeacherResult] = {}
    for name, teacher in teachers.items():
        with told_of(judging, "the task judges the teacher"):
            verdict = judging.judge(teacher_outputs(teacher, settings, name), images)
        verdicts.setdefault("teacher", verdict)  # the student is compared with the first
        several = name in prepared.problem.teachers
        alone = prepared.of_teacher(name) if several else prepared
        of_one = {"relation": describe_relation(alone.problem.relation)} if several else {}
        results[name] = teacher_results(teacher, alone).model_copy(update={**verdict.results(), **of_one})
    for which in judged:
        judged[which] = with_verdict(judged[which], verdicts[which], verdicts.get("teacher"))
    with told_of(judging, "the task saves its results"):
        judging.save(folder, verdicts)
    return judged, results, correct


def _judged_peer(folder: Path, prepared: Prepared, states: Mapping[str, State]) -> PeerResult:
    """Judge the second student's states as the first's, and write them; they can teach or be judged as any file."""
    section, network, method = peer_of(prepared.experiment), prepared.peer, prepared.experiment.method
    assert section is not None
    assert network is not None
    problem, added = prepared.problem, prepared.experiment.evaluate.metrics
    labels, judged = problem.student.test.labels.cpu(), {}
    metadata = replace(
        weight_metadata(prepared, HEAD, network),
        network=section.network,
        options=section.options,
        taps=section.taps.model_dump(mode="json", exclude_none=True),
    )
    for which, state in states.items():
        network.load_state_dict(state)
        outputs = student_outputs(network, prepared.settings)
        logits = problem.judging.scores(outputs, problem.student, by_head=True)
        judged[which] = judge(logits, labels, method, added=added, relation=problem.relation)
        stated = replace(metadata, test_accuracy=judged[which].accuracy)
        save_weights(folder / PEER_WEIGHTS[which], state, stated.to_header())
    return PeerResult(network=section.network, parameters=count_parameters(network), **judged)


def weight_metadata(prepared: Prepared, answers: str, student: nn.Module | None = None) -> WeightMetadata:
    """The metadata of a student's weight file: all that is needed to build the network and to feed it.

    Args:
        prepared: the experiment.
        answers: the classifier that is judged.
        student: the network instead of the prepared one, which steps may have expanded.
    """
    settings, problem, section = prepared.settings, prepared.problem, prepared.experiment.student
    images = problem.student.train
    channels, (height, width) = images.channels, images.size
    network = prepared.student if student is None else student
    extractors = num_extractors(network)
    made: dict[str, object] = {EXTRACTORS: extractors} if extractors > 1 else {}
    if isinstance(network, ProjectedNetwork):
        made[PROJECTOR] = network.projection.model_dump(mode="json")
    return WeightMetadata(
        network=section.network,
        classes=problem.student.space.names,
        mean=settings.mean,
        std=settings.std,
        image_shape=(channels, height, width),
        method=prepared.experiment.method.name,
        options=section.options | made,
        taps=section.taps.model_dump(mode="json", exclude_none=True),
        preprocessing=Preprocessing(prepared.experiment.data.fit, prepared.experiment.data.exif, answers),
    )


def describe_relation(relation: LabelRelation) -> RelationFacts:
    """A label relation as facts for a summary."""
    return RelationFacts(
        kind=relation.kind,
        overlap=round(relation.overlap, 4),
        shared=relation.num_shared,
        teacher_classes=len(relation.teacher),
        student_classes=len(relation.student),
    )


def empty_batches(folder: Path) -> dict[str, int]:
    """How many batches held nothing for a counting term (no tuple, say), by stage and term."""
    counts: dict[str, int] = {}
    for record in MetricsFile(folder / "metrics.jsonl").read():
        for name, value in record.items():
            if name.startswith("empty/") and "stage" in record and isinstance(value, (int, float)):
                key = f"{record['stage']}/{name.removeprefix('empty/')}"
                counts[key] = counts.get(key, 0) + int(value)
    return counts
