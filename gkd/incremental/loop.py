"""The steps of an incremental run: each is a ``fit`` in a folder of its own, and its student teaches the next.

``RUN/steps/N`` has what the loop writes, the step's student, its exemplars (``memory.json``) and at last
``summary.json``, by which it is finished; a run that goes on reads finished steps and continues in the one that is not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from gkd import metrics
from gkd.distill.teacher import Teacher
from gkd.experiment.judge import check_expected, judge, rounded
from gkd.experiment.prepare import Prepared, problems_of
from gkd.experiment.results import empty_batches, weight_metadata
from gkd.experiment.teachers import check_checksum
from gkd.incremental.accuracy_matrix import images_by_step
from gkd.incremental.answers import step_answers
from gkd.incremental.growing import frozen_columns, put_back, step_student
from gkd.incremental.head_rules import RULES, AfterStep
from gkd.incremental.matrix_file import write_matrices
from gkd.incremental.memory import Memory
from gkd.incremental.previous_model import Before, check_columns, input_statistics, old_network, step_teacher
from gkd.incremental.scenario import step_of_class
from gkd.incremental.step import Step, hold_out
from gkd.incremental.step_folder import Done, hashes_of, keep_step, named_weights, read_step
from gkd.incremental.summary import summarise_steps
from gkd.methods.method import Method
from gkd.methods.routing import Routing
from gkd.models import count_parameters
from gkd.problems.problem import Problem
from gkd.storage.judged import Judged
from gkd.storage.records import INCREMENTAL, VERSION
from gkd.storage.run_files import STEPS, WEIGHTS, pack
from gkd.storage.run_results import RunSummary
from gkd.storage.step_results import Chosen, GivenModel, StepSummary
from gkd.storage.weights import save_weights, state_hash
from gkd.training.loop import fit
from gkd.training.predictions import predict
from gkd.training.progress import Reporter
from gkd.training.stage_run import Position, State


def solve_steps(
    prepared: Prepared, given: Path | None, folder: Path, console: Console, title: str, threads: int
) -> RunSummary:
    """Solves every step that is not finished, one after the other, and sums them up.

    Args:
        prepared: the experiment; its problem is the first step to train.
        given: the weights of the model of the step before that; None where there is none.
        folder: the run's.
        console: where to say how it goes.
        title: names the run there.
        threads: CPU threads that are used.

    Raises:
        UserError: bad input; a given model of other classes, or one that the student cannot grow out of.
        Interrupted: a signal asked to stop; everything is saved.
    """
    _say_what_is_not_learnt(prepared, console)
    done: list[Done] = []
    for problem in problems_of(prepared.experiment, prepared.settings.caches):
        step = problem.step
        assert step is not None  # the task is incremental
        if given is not None and step.number < step.start_from:
            continue
        own = folder / STEPS / str(step.number + 1)
        problem = remembering(problem, done[-1].memory if done else Memory({}))
        here = replace(prepared, problem=problem)
        is_given = given is not None and step.number == step.start_from
        assert problem.step is not None
        before = done[-1] if done else None
        found = read_step(own, problem.step, before, given if is_given else None, console)
        if found is None and is_given:
            assert given is not None
            found = _take(here, given, own)
        elif found is None:
            about = f"{title} step {step.number + 1}/{len(step.steps)}"
            with Reporter(console, about, every=prepared.experiment.run.log_seconds) as reporter:
                found = _solve(here, before, own, reporter)
        done.append(found)
        matrices = write_matrices(folder, step.steps, [each.summary for each in done])
    return summarise_steps(folder, here, [each.summary for each in done], matrices, threads)


def _say_what_is_not_learnt(prepared: Prepared, console: Console) -> None:
    """Prints a note where the memory holds every image or a step brings one class."""
    step = prepared.problem.step
    assert step is not None
    most, least = int(step.images.class_counts().max()), step.rehearsal.per_class(sum(map(len, step.steps)))
    if least >= most:
        console.print(
            f"note      the memory of {least} exemplars a class holds every image, for no class has more than {most}",
            markup=False,
            highlight=False,
        )
    single = any(len(names) == 1 for names in step.steps[1:])
    terms = [term for stage in prepared.experiment.method.stages.values() for term in stage.terms.values()]
    if single and any(term.loss == "cross_entropy_new" for term in terms):
        console.print(
            "note      a step brings one class, over which cross_entropy_new is always 0; larger steps teach more",
            markup=False,
            highlight=False,
        )


def remembering(problem: Problem, memory: Memory) -> Problem:
    """The problem with the exemplars of old classes behind the new classes' images."""
    assert problem.step is not None
    step = problem.step.with_memory(memory)
    return replace(problem, step=step, student=replace(problem.student, train=step.rehearsed_images()))


def _take(prepared: Prepared, given: Path, own: Path) -> Done:
    """The step whose model is given: judged, and its exemplars chosen."""
    problem, settings = prepared.problem, prepared.settings
    step, options = problem.step, prepared.experiment.teacher
    assert step is not None
    assert options is not None
    check_checksum(options, given)
    before = Before(given, given=True)
    network = old_network(prepared, before, len(step.seen))
    check_columns(given, step.seen.names)
    started = time.monotonic()
    answers = step_answers(network, problem, settings, look=input_statistics(prepared, before))
    method = prepared.experiment.method
    accuracy = metrics.accuracy(answers.logits, problem.student.test.labels.cpu())
    told = f"The teacher {given} has {accuracy:.2f} % on the test images of its {len(step.seen)} classes"
    check_expected(options, accuracy, told)
    file = named_weights(given, own, prepared.experiment.run.out)
    labels = problem.student.test.labels.cpu()
    summary = StepSummary(
        version=VERSION,
        kind=INCREMENTAL,
        step=step.number + 1,
        classes=list(step.new),
        given=GivenModel(weights=file.weights, sha256=file.sha256, hash=state_hash(network)),
        head_accuracy=rounded(accuracy),
        epochs={},
        seconds=0.0,
        images=0,
        bookkeeping_seconds=round(time.monotonic() - started, 3),
        memory=len(answers.memory),
        last=_judge(prepared, problem, answers.scores(method)),
        rows=answers.rows(step, labels),
        test_images=_sizes(problem),
        empty_batches={},
    )
    return keep_step(own, before, answers.memory, step, summary)


def _judge(prepared: Prepared, problem: Problem, scores: Tensor) -> Judged:
    """Results of the student on the test images of a step, from its scores ``[N, C]``."""
    experiment, labels = prepared.experiment, problem.student.test.labels.cpu()
    added, relation = experiment.evaluate.metrics, problem.relation
    return judge(scores, labels, experiment.method, added=added, relation=relation)


@dataclass(frozen=True)
class _Trained:
    """A step's student after ``fit``, and what came of it; held_out are images kept from its training."""

    problem: Problem
    method: Method
    epochs: dict[str, int]
    student: nn.Module
    teacher: Teacher | None
    held_out: Tensor | None
    last: State
    best: State
    position: Position
    seconds_before: float


def _train(prepared: Prepared, before: Done | None, own: Path, reporter: Reporter) -> _Trained:
    """Lets the student of a step grow out of the step before, and trains it."""
    experiment, settings, problem = prepared.experiment, prepared.settings, prepared.problem
    step, method = problem.step, experiment.method
    assert step is not None
    first = step.number == 0
    method = without_teacher(method) if first else method
    epochs = method.epochs((step.base_epochs if first else None) or experiment.run.epochs)
    started = time.monotonic()
    held = hold_out(step, method.held_out, seed=settings.seed) if method.held_out and not first else None
    if held is not None:
        problem = _without(problem, step, held)
    student = step_student(replace(prepared, problem=problem), before.model if before else None)
    teacher = None
    if method.needs_teacher:
        assert before is not None  # the first step has none
        teacher, problem = step_teacher(replace(prepared, problem=problem), before.model)
    frozen = frozen_columns(student)
    seconds = time.monotonic() - started
    last, best, position = fit(student, teacher, problem, method, epochs, settings, own, reporter)
    put_back(frozen, last, best)
    return _Trained(problem, method, epochs, student, teacher, held, last, best, position, seconds)


def _solve(prepared: Prepared, before: Done | None, own: Path, reporter: Reporter) -> Done:
    """Trains the student of a step, applies the method's rules to it, judges it and chooses exemplars."""
    trained = _train(prepared, before, own, reporter)
    problem, method, student, position = trained.problem, trained.method, trained.student, trained.position
    step, settings, teacher = problem.step, prepared.settings, trained.teacher
    assert step is not None
    out = prepared.experiment.run.out
    started = time.monotonic()
    rules = _apply_rules(student, trained.last, method, step, trained.held_out, prepared)
    answers = step_answers(student, problem, settings)
    labels = problem.student.test.labels.cpu()
    scores = answers.scores(method)
    own.mkdir(parents=True, exist_ok=True)
    last = _judge(prepared, problem, scores)
    _save(prepared, student, own, "last", last)
    hashes, correct = hashes_of(student, before), {"last": pack(metrics.correctness(scores, labels))}
    epoch, validation = position.best_epoch, rounded(position.best_metric)
    best: Judged | Chosen = Chosen(epoch=epoch, validation=validation)
    if step.number + 1 == len(step.steps):  # the best of a step on the way leads nowhere
        if not all(torch.equal(value, trained.best[name]) for name, value in trained.last.items()):
            _apply_rules(student, trained.best, method, step, trained.held_out, prepared)
            scores = step_answers(student, problem, settings, answers.memory).scores(method)
        best = _judge(prepared, problem, scores).model_copy(update=dict(best))
        correct["best"] = pack(metrics.correctness(scores, labels))
        hashes["best"] = state_hash(student)
        _save(prepared, student, own, "best", best)
    summary = StepSummary(
        version=VERSION,
        kind=INCREMENTAL,
        step=step.number + 1,
        classes=list(step.new),
        teacher=None if before is None else named_weights(before.model.weights, own, out),
        teacher_hash=None if teacher is None else teacher.state_hash(),
        hashes=hashes,
        rules=rules,
        epochs=trained.epochs,
        memory=len(answers.memory),
        last=last,
        best=best,
        rows=answers.rows(step, labels),
        test_images=_sizes(problem),
        correct=correct,
        empty_batches=empty_batches(own),
        parameters=count_parameters(student),
        seconds=round(position.seconds, 3),
        images=position.images,
        bookkeeping_seconds=round(trained.seconds_before + time.monotonic() - started, 3),
    )
    return keep_step(own, Before(own / WEIGHTS["last"]), answers.memory, step, summary)


def _save(prepared: Prepared, student: nn.Module, own: Path, which: str, judged: Judged) -> None:
    """Writes a step's student, the last or the best, with its accuracy."""
    metadata = replace(weight_metadata(prepared, student), test_accuracy=judged.accuracy)
    save_weights(own / WEIGHTS[which], student.state_dict(), metadata.to_header())


def _without(problem: Problem, step: Step, held: Tensor) -> Problem:
    """The problem whose student does not train on what is held out, whichever images a stage asks for."""
    step = replace(step, held_out=held)
    return replace(problem, step=step, student=replace(problem.student, train=step.rehearsed_images()))


def _sizes(problem: Problem) -> list[int]:
    """How many test images each step's classes have; 0 for those to come."""
    assert problem.step is not None
    sizes: list[int] = images_by_step(
        problem.student.test.labels.cpu(), step_of_class(problem.step.steps)
    ).tolist()
    return sizes


def _apply_rules(
    student: nn.Module, state: State, method: Method, step: Step, held: Tensor | None, prepared: Prepared
) -> dict[str, dict[str, float]]:
    """Loads a state into the student and lets the method's rules change it; their numbers."""
    student.load_state_dict(state)
    if step.num_old == 0:
        return {}

    def held_out() -> tuple[Tensor, Tensor]:
        assert held is not None  # the method says so
        images = step.chosen(held)
        return predict(student, images, prepared.settings)[0], images.labels.cpu()

    after = AfterStep(student, step.num_old, held_out)
    return {name: RULES[name](after) for name in method.after}


def without_teacher(method: Method) -> Method:
    """What remains of a method where nothing was learnt before: for the first step of an incremental run.

    Terms that read a teacher or an auxiliary head go, and with them stages that have no other; so does balanced
    fine-tuning, for no class is old. Where no term is left, the first stage is cross-entropy alone.
    """
    content = method.model_dump()
    stages = {}
    for name, stage in method.stages.items():
        terms = {
            key: term
            for key, term in stage.terms.items()
            if not term.needs_teacher and term.head != "auxiliary"
        }
        if terms and stage.data != "balanced-memory":
            kept = content["stages"][name]
            kept["terms"] = {key: kept["terms"][key] for key in terms}
            kept.update(start="last", spots=Routing().model_dump())
            if all(term.samples == "clean" for term in terms.values()):
                kept["mixup"] = None
            stages[name] = kept
    if not stages:
        name, first = next(iter(content["stages"].items()))
        stages[name] = {key: first[key] for key in ("epochs", "share", "optimiser")}
        stages[name]["terms"] = {"cross_entropy": {"loss": "cross_entropy"}}
    return Method.model_validate({**content, "stages": stages})
