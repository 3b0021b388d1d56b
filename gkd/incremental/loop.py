"""The steps of an incremental run: each is a `train_step` in a folder of its own, and its student teaches the next.

``RUN/steps/N`` has the training loop's files, the step's student, its exemplars (``memory.json``) and, written last,
``summary.json``, which marks it as finished; a resumed run reads finished steps and continues the first that is not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gkd import metrics
from gkd.core.labels import LabelRelation
from gkd.distill.teacher import Teacher
from gkd.experiment.judge import (
    chance_explains,
    check_expected,
    in_float32,
    judge,
    rounded,
    shown_statistics,
    teacher_results,
    warnings_of,
)
from gkd.experiment.networks import teacher_section
from gkd.experiment.prepare import Prepared
from gkd.experiment.results import describe_relation, empty_batches, weight_metadata
from gkd.experiment.solve import Job, notes_on_heads, obtain_named_teachers, teacher_weights
from gkd.experiment.teachers import check_checksum, statistics_source
from gkd.incremental.answers import step_answers
from gkd.incremental.learn import Learnt, train_step
from gkd.incremental.matrix_file import write_matrices
from gkd.incremental.memory import Memory
from gkd.incremental.previous_model import (
    Before,
    check_columns,
    input_statistics,
    network_of_step,
    old_model,
    step_teacher,
)
from gkd.incremental.problem import IncrementalProblem, as_incremental
from gkd.incremental.step_folder import Done, hashes_of, keep_step, named_weights, read_step
from gkd.incremental.summary import summarise_steps
from gkd.models import count_parameters
from gkd.storage.confusion_file import write_confusion
from gkd.storage.judged import Judged
from gkd.storage.preprocessing import EXEMPLAR_MEANS, HEAD
from gkd.storage.records import INCREMENTAL, VERSION
from gkd.storage.run_files import CONFUSION, STEPS, WEIGHTS, pack
from gkd.storage.run_results import RunSummary
from gkd.storage.step_results import Chosen, GivenModel, StepSummary
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weights import save_weights, state_hash
from gkd.training.predictions import predict


def solve_steps(job: Job) -> tuple[RunSummary, bool]:
    """Solve every unfinished step in order; return the summary, and whether anything was trained.

    Raises:
        UserError: bad input; a given model of other classes, or one that the student cannot grow out of.
        Interrupted: a signal asked to stop; everything is saved.
    """
    problem = as_incremental(job.prepared.problem)
    job.introduce(problem.step.images, f", {len(problem.step.steps)} steps")
    first_model = teacher_weights(job)
    beside, prepared = obtain_named_teachers(job)
    job = replace(job, prepared=prepared)
    with job.begun() as done:
        if done is not None:
            return done, False
        _say_what_is_not_learnt(job, problem)
        return _solve_all(job, first_model, beside), True


def _solve_all(job: Job, first_model: Path | None, beside: Mapping[str, Teacher]) -> RunSummary:
    """Solve every step, and sum them up.

    Args:
        job: the run.
        first_model: the weight file of the experiment's teacher.
        beside: the named teachers that stand beside the steps' models.
    """
    prepared = job.prepared
    done: list[Done] = []
    read = False  # whether the last step was there already
    for each in prepared.sides.problems():
        step = as_incremental(each).step
        if first_model is not None and step.number < step.start_from:
            continue
        problem = as_incremental(each).remembering(done[-1].memory if done else Memory({}))
        for name, teacher in beside.items():
            problem = problem.beside(name, teacher.space)
        prepared = prepared.with_problem(problem)
        step_folder = job.folder / STEPS / str(step.number + 1)
        model = first_model if step.number == step.start_from else None
        before = done[-1] if done else None
        finished = read_step(step_folder, problem.step, before, model, job.console)
        if finished is None and model is not None:
            finished = _judge_given_model(job, prepared, model, step_folder)
        elif finished is None:
            if read:
                job.say(f"note      continued at step {step.number + 1}: the steps before it are finished")
            finished, read = _solve(job, prepared, before, step_folder, beside), False
        else:
            read = True
        done.append(finished)
        matrices = write_matrices(job.folder, step.steps, [one.summary for one in done])
    results = {}
    for name, teacher in beside.items():  # as they were judged before the first step
        alone = job.prepared.of_teacher(name)
        relation = describe_relation(alone.problem.relation)
        results[name] = teacher_results(teacher, alone).model_copy(update={"relation": relation})
    steps = [one.summary for one in done]
    return summarise_steps(job.folder, prepared, steps, matrices, job.threads, beside=results)


def _say_what_is_not_learnt(job: Job, problem: IncrementalProblem) -> None:
    """Print a note where the memory holds every image or a step brings one class."""
    step, method = problem.step, job.prepared.experiment.method
    job.note(notes_on_heads(job.prepared))  # where the student starts afresh; no other is let in
    most, least = int(step.images.class_counts().max()), step.rehearsal.per_class(sum(map(len, step.steps)))
    if least >= most:
        job.say(
            f"note      the memory of {least} exemplars a class holds every image, for no class has more than {most}",
        )
    single = any(len(names) == 1 for names in step.steps[1:])
    terms = [term for stage in method.stages.values() for term in stage.terms.values()]
    if single and any(term.loss == "cross_entropy_new" for term in terms):
        job.say(
            "note      a step brings one class, over which cross_entropy_new is always 0; larger steps teach more",
        )


def _judge_given_model(job: Job, prepared: Prepared, model: Path, step_folder: Path) -> Done:
    """Judge the model that is given for a step, and choose its exemplars."""
    problem, settings = as_incremental(prepared.problem), prepared.settings
    step, options, method = problem.step, teacher_section(prepared.experiment), prepared.experiment.method
    check_checksum(options, model)
    before = Before(model, is_given=True)
    loaded = old_model(prepared, before, len(step.seen))
    network = loaded.network
    job.note(loaded.notes)
    check_columns(model, step.seen.names)
    started = time.monotonic()
    statistics = input_statistics(prepared, before)
    answers = step_answers(network, problem, settings, statistics=statistics)
    labels = problem.student.test.labels.cpu()
    logits = answers.logits
    if settings.dtype != torch.float32:
        logits, _ = predict(network, problem.student.test, in_float32(settings), **statistics)
    accuracy = metrics.accuracy(logits, labels)
    near = chance_explains(logits, labels, LabelRelation(step.seen, step.seen))
    result = f"{accuracy:.2f} % on the test images of its {len(step.seen)} classes"
    check_expected(options, accuracy, f"The teacher {model} has {result}", near)
    source = statistics_source(options, WeightMetadata.read(model))
    shown = shown_statistics(statistics["mean"], statistics["std"], source)
    job.say(f"teacher   {options.network}: {result}, in float32; {shown}")
    for line in warnings_of(near):
        job.say(line)
    file = named_weights(model, step_folder, prepared.experiment.run.out)
    summary = StepSummary(
        version=VERSION,
        kind=INCREMENTAL,
        step=step.number + 1,
        classes=list(step.new),
        given=GivenModel(
            weights=file.weights,
            sha256=file.sha256,
            hash=state_hash(network),
            **({} if near is None else {"near_chance": near}),
        ),
        head_accuracy=rounded(accuracy),
        epochs={},
        seconds=0.0,
        images=0,
        bookkeeping_seconds=round(time.monotonic() - started, 3),
        memory=len(answers.memory),
        last=_judge(prepared, problem, answers.scores(by_head=method.judged_by_head), step_folder, "last"),
        rows=answers.rows(step, labels),
        test_images=problem.test_sizes,
        empty_batches={},
    )
    return keep_step(step_folder, before, answers.memory, step, summary)


def _judge(
    prepared: Prepared, problem: IncrementalProblem, scores: Tensor, step_folder: Path, which: str
) -> Judged:
    """Results of the student, the last or the best, on the test images of a step, from its scores ``[N, C]``.

    Writes its confusion matrix over the classes so far.
    """
    experiment, labels = prepared.experiment, problem.student.test.labels.cpu()
    added, relation, names = experiment.evaluate.metrics, problem.relation, problem.student.space.names
    write_confusion(step_folder / CONFUSION[which], names, metrics.confusion_matrix(scores, labels))
    return judge(scores, labels, experiment.method, added=added, relation=relation, classes=names)


def _solve(
    job: Job, prepared: Prepared, before: Done | None, step_folder: Path, beside: Mapping[str, Teacher]
) -> Done:
    """Train a step whose starting network and teacher are read from files, and write its results."""
    experiment, step = prepared.experiment, as_incremental(prepared.problem).step
    with job.reporter(f"step {step.number + 1}/{len(step.steps)}") as reporter:
        started = time.monotonic()
        network = network_of_step(prepared, before.model if before else None)
        teacher, prepared = step_teacher(prepared, before.model) if before else (None, prepared)
        seconds = time.monotonic() - started
        learnt = train_step(
            as_incremental(prepared.problem),
            network,
            experiment.method,
            prepared.settings,
            folder=step_folder,
            reporter=reporter,
            epochs=experiment.run.epochs,
            teacher=teacher,
            beside=beside,
        )
        return _keep(prepared, learnt, before, step_folder, seconds)


def _keep(prepared: Prepared, learnt: Learnt, before: Done | None, step_folder: Path, seconds: float) -> Done:
    """Judge a step's student and write it with its exemplars and summary.

    ``seconds`` is the bookkeeping time already spent on the step.
    """
    started = time.monotonic()
    problem, student = learnt.problem, learnt.student
    step, answers, position = problem.step, learnt.answers, learnt.position
    labels, scores = problem.student.test.labels.cpu(), learnt.scores()
    step_folder.mkdir(parents=True, exist_ok=True)
    last = _judge(prepared, problem, scores, step_folder, "last")
    _save(prepared, learnt, step_folder, "last", last)
    hashes, correct = hashes_of(student, before), {"last": pack(metrics.correctness(scores, labels))}
    parameters = count_parameters(student)
    best: Judged | Chosen = Chosen(epoch=position.best_epoch, validation=rounded(position.best_metric))
    if problem.is_last:  # later steps grow out of the last epoch's student
        learnt = learnt.at_best(prepared.settings)
        scores = learnt.scores()
        best = _judge(prepared, problem, scores, step_folder, "best").model_copy(update=dict(best))
        correct["best"] = pack(metrics.correctness(scores, labels))
        hashes["best"] = state_hash(student)
        _save(prepared, learnt, step_folder, "best", best)
    taught_by = None
    if before is not None:
        taught_by = named_weights(before.model.weights, step_folder, prepared.experiment.run.out)
    summary = StepSummary(
        version=VERSION,
        kind=INCREMENTAL,
        step=step.number + 1,
        classes=list(step.new),
        teacher=taught_by,
        teacher_hash=None if learnt.teacher is None else learnt.teacher.state_hash(),
        hashes=hashes,
        rules={rule: dict(numbers) for rule, numbers in learnt.rules.items()},
        epochs=dict(learnt.epochs),
        memory=len(answers.memory),
        last=last,
        best=best,
        rows=answers.rows(step, labels),
        test_images=problem.test_sizes,
        correct=correct,
        empty_batches=empty_batches(step_folder),
        parameters=parameters,
        seconds=round(position.seconds, 3),
        images=position.images,
        bookkeeping_seconds=round(seconds + learnt.seconds + time.monotonic() - started, 3),
    )
    return keep_step(step_folder, Before(step_folder / WEIGHTS["last"]), answers.memory, step, summary)


def _save(prepared: Prepared, learnt: Learnt, step_folder: Path, which: str, judged: Judged) -> None:
    """Write a step's student, the last or the best, with its accuracy and what answers for it."""
    by_head = prepared.experiment.method.judged_by_head
    metadata = weight_metadata(prepared, HEAD if by_head else EXEMPLAR_MEANS, learnt.student)
    means = None if by_head else learnt.answers.means
    metadata = replace(metadata, test_accuracy=judged.accuracy, class_means=means)
    save_weights(step_folder / WEIGHTS[which], learnt.student.state_dict(), metadata.to_header())
