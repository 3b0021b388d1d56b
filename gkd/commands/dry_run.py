"""Build everything, try one batch of every stage, say what a run would cost; train nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console

from gkd.config.peers import peer_of
from gkd.config.resolve import Resolved
from gkd.config.teacher_sections import named_teachers_read
from gkd.core.text import say
from gkd.distill.side import Guides
from gkd.distill.teacher import Teacher
from gkd.experiment.judge import prove_teacher
from gkd.experiment.networks import teacher_section
from gkd.experiment.prepare import Prepared, prepare
from gkd.experiment.projected_student import with_projector
from gkd.experiment.run_folder import finished, run_folder
from gkd.experiment.solve import describe_machine, notes_on_heads, title
from gkd.experiment.teacher_classes import of_named
from gkd.experiment.teachers import load_teacher, pretraining_experiment, random_teacher, teacher_experiment
from gkd.experiment.trial import Trial, trial_of
from gkd.methods.stage import Stage
from gkd.models import count_parameters
from gkd.storage.run_files import WEIGHTS
from gkd.training.caches import Caches
from gkd.training.device import use_threads
from gkd.training.loop import one_step
from gkd.training.settings import Settings
from gkd.training.stage_run import Position


def dry_run(resolved: Resolved, console: Console, *, caches: Caches | None = None) -> float:
    """Build everything, run one batch forward and backward a stage, and say what a run would cost.

    Args:
        resolved: the run's experiment.
        console: what it is said on.
        caches: what several dry runs read once.

    Returns:
        The seconds of training that a run is expected to take here.
    """
    threads = use_threads(resolved.experiment.run.threads)
    prepared = prepare(resolved, caches=caches)
    trials = type(prepared.task).trials
    if trials is None:
        prepared, taught_by, teacher, tried, total = _one_problem(prepared)
    else:
        taught_by, teacher, tried, total = None, [], [], 0.0
        for trial in trials(prepared):
            lines, seconds = _try_stages(trial, prepared.settings)
            tried += [f"{trial.name}    {line}" for line in lines]
            total += seconds * trial.times
        if resolved.experiment.teacher is not None and not resolved.experiment.teacher.is_given:
            tried.append(
                "teacher   not counted: the first model is trained once for all methods, if it is not there yet"
            )
    notes = [f"note      {note}" for note in notes_on_heads(prepared, taught_by)]
    settings, folder = prepared.settings, run_folder(resolved)
    state = "finished already" if finished(folder) else f"about {total:.0f} s of training"
    lines = [
        f"{title(resolved)} (dry run)",
        *(f"{word:<9} {text}" for word, text in prepared.problem.facts().items()),
        *(f"note      {note}" for note in prepared.notes),
        f"student   {resolved.experiment.student.network}, {count_parameters(prepared.student):,} parameters",
        *_about_peer(prepared),
        *teacher,
        *notes,
        f"machine   {describe_machine(settings.device, settings.dtype, threads)}",
        *tried,
        f"expected  {state}, in {folder}",
    ]
    say(console, "\n".join(lines))
    return total


def _about_peer(prepared: Prepared) -> list[str]:
    """A line on the second student, where the method trains two."""
    section = peer_of(prepared.experiment)
    if section is None or prepared.peer is None:
        return []
    return [f"peer      {section.network}, {count_parameters(prepared.peer):,} parameters"]


def _one_problem(prepared: Prepared) -> tuple[Prepared, Guides, list[str], list[str], float]:
    """The run with its teachers' classes, these, lines about them and each stage, and the seconds of all stages."""
    if prepared.generation > 1:
        return _one_generation(prepared)
    before, total = _try_pretraining(prepared)
    experiment, about, teachers = prepared.experiment, [], {}
    guides: Guides = None
    if experiment.teacher is not None and experiment.method.needs_teacher:
        one = _one_teacher(prepared)
        guides, prepared = one.teacher, one.known
        about, before, total = one.about, [*before, *one.before], total + one.seconds
    for name in named_teachers_read(experiment):
        with of_named(name):
            one = _one_teacher(prepared.of_teacher(name), name)
        teachers[name], prepared = one.teacher, prepared.with_teacher(name, one.known)
        about, before, total = [*about, *one.about], [*before, *one.before], total + one.seconds
    guides = teachers or guides
    prepared = with_projector(prepared, guides)
    lines, seconds = _try_stages(trial_of(prepared, guides), prepared.settings)
    return prepared, guides, about, [f"stage     {line}" for line in (*before, *lines)], total + seconds


def _one_generation(prepared: Prepared) -> tuple[Prepared, Guides, list[str], list[str], float]:
    """``_one_problem`` of a generation after the first, with what is left of those before, of which the first is tried.

    Those between take as long as the last, for their teachers are networks as its own.
    """
    last = done = prepared.generation - 1
    while done and not finished(run_folder(prepared.of_generation(done))):
        done -= 1
    left = prepared.generation - done
    already = f", after {done} that {'is' if done == 1 else 'are'} trained already" if done else ""
    about = [
        f"students  {left} generation{'s' * (left > 1)} to train, each taught by the one before{already}"
    ]
    before, total = list[str](), 0.0
    teacher: Teacher
    if done == last:
        one = _one_teacher(prepared)
        teacher, prepared = one.teacher, one.known
        about += one.about
    else:
        teacher = random_teacher(prepared)
        note = f" (generation {last}, not trained yet; a run does that first)"
        about.append(_about(teacher, teacher_section(prepared.experiment).network, note))
    if done == 0:
        first = prepare(prepared.of_generation(1), caches=prepared.settings.caches)
        _, _, about_first, before, total = _one_problem(first)
        before = [line.replace("stage     ", "stage     generation 1, ", 1) for line in before]
        about = [about[0], *about_first, *about[1:]]
    lines, seconds = _try_stages(trial_of(prepared, teacher), prepared.settings)
    later = min(left, last)
    which = (
        f"generation {prepared.generation}"
        if later == 1
        else f"generations {prepared.generation - later + 1} to {prepared.generation}, each"
    )
    return (
        prepared,
        teacher,
        about,
        [*before, *(f"stage     {which}, {line}" for line in lines)],
        total + seconds * later,
    )


@dataclass(frozen=True)
class _Tried:
    """A teacher as a dry run has it.

    Attributes:
        teacher: trained, or of random weights where a run would train it first.
        known: the run with its classes.
        about: lines on it.
        before: lines on the stages that train it, which take ``seconds``.
    """

    teacher: Teacher
    known: Prepared
    about: list[str]
    before: list[str]
    seconds: float = 0.0


def _one_teacher(prepared: Prepared, name: str | None = None) -> _Tried:
    """The one teacher of a run, or of one of several, by its name, as the only one."""
    options, called = teacher_section(prepared.experiment), "" if name is None else f"{name}, "
    checkpoint, training = options.checkpoint, None
    if not options.is_given:
        training = teacher_experiment(prepared)
        trained = run_folder(training)
        checkpoint = trained / WEIGHTS[options.weights] if finished(trained) else None
    if training is not None and checkpoint is None:
        teacher = random_teacher(prepared)
        first = prepare(training, caches=prepared.settings.caches)
        lines, seconds = _try_stages(trial_of(first), first.settings)
        note = " (not trained yet; a run does that first)"
        before = [f"teacher, {called}{line}" for line in lines]
        return _Tried(
            teacher, prepared, [_about(teacher, f"{called}{options.network}", note)], before, seconds
        )
    teacher, prepared = load_teacher(prepared, checkpoint)
    first_line, *warnings = prove_teacher(teacher, prepared, checkpoint, probing=False)
    note = f"; {first_line.partition(': ')[2]}"
    return _Tried(teacher, prepared, [_about(teacher, f"{called}{options.network}", note), *warnings], [])


def _about(teacher: Teacher, network: str, note: str) -> str:
    return f"teacher   {network}, {count_parameters(teacher.network):,} parameters{note}"


def _try_pretraining(prepared: Prepared) -> tuple[list[str], float]:
    """``_try_stages`` of the run that pretrains the student; nothing where there is none or it is finished."""
    section = prepared.experiment.student.pretrain
    if section is None:
        return [], 0.0
    training = pretraining_experiment(prepared, section)
    if finished(run_folder(training)):
        return [], 0.0
    first = prepare(training, caches=prepared.settings.caches)
    if first.experiment.method.needs_teacher:
        return ["pretraining, by a method with a teacher: not tried"], 0.0
    lines, seconds = _try_stages(trial_of(first), first.settings)
    return [f"pretraining, {line}" for line in lines], seconds


def _try_stages(trial: Trial, settings: Settings) -> tuple[list[str], float]:
    """One batch through every stage: a line about each, and the seconds that all of them would take."""
    lines, total = [], 0.0
    for number, (name, stage) in enumerate(trial.method.stages.items()):
        position = Position(stage=number)
        tried = one_step(name, stage, trial.student, trial.teacher, trial.problem, settings, position)
        expected = tried.seconds * tried.steps * trial.epochs[name]
        total += expected
        lines.append(
            f"{name}: loss {tried.loss:.4f}, {1000 * tried.seconds:.0f} ms a step, "
            f"{tried.steps} steps x {trial.epochs[name]} epochs, about {expected:.0f} s"
        )
        if tried.pulls is not None:
            lines.append(f"{name}: {_told_pulls(tried.pulls, stage)}")
    return lines, total


# Times the cross-entropy. At weights that drowned it in the committed tunings terms began at 15 to 40, at good ones
# below 12.
_DROWNS, _DOES_NOTHING = 13.0, 0.01


def _told_pulls(pulls: Mapping[str, float], stage: Stage) -> str:
    """What each term pulls at the start, where one drowns the rest, and where one does nothing."""
    parts = []
    for name, pull in pulls.items():
        if stage.terms[name].is_cross_entropy:
            continue
        about = " (drowns the rest)" if pull > _DROWNS else " (does nothing)" if pull < _DOES_NOTHING else ""
        parts.append(f"{name} {pull:.2g}{about}")
    return f"gradients at the start, times the cross-entropy's: {', '.join(parts)}"
