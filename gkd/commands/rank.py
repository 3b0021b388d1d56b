"""Rank the teachers that a config gives, before anything is trained, by what they know of the student's classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

from gkd.config.generations import of_generation
from gkd.config.resolve import Resolved
from gkd.config.schema import Experiment
from gkd.config.shipped import load_method
from gkd.config.teacher_sections import teacher_sections
from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation
from gkd.experiment.judge import OwnResults, can_probe, expected_results, probe
from gkd.experiment.networks import teacher_section
from gkd.experiment.prepare import Prepared, prepare
from gkd.experiment.teacher_classes import of_named
from gkd.experiment.teachers import load_teacher
from gkd.methods.term_checks import ONLY
from gkd.models import count_parameters
from gkd.problems.task import students_teach
from gkd.storage.judged import Probe
from gkd.training.caches import Caches
from gkd.training.device import use_threads

# A method that reads the embedding of every teacher and nothing of its classes, so that none is refused or left out.
_READS_ALL = "queue_all_teachers"


@dataclass(frozen=True)
class Ranked:
    """A candidate teacher.

    Attributes:
        name: its name in ``teachers``, or ``teacher``.
        network: the name of its network.
        probe: what its embedding knows of the student's classes, on the validation images.
        own: its results on the test images of its own classes that the data has; None where it has none.
        relation: its classes against the student's.
        parameters: how many its network has, frozen ones included.
        width: of its embedding.
        notes: what a user should know of how its weights were read, a sentence each.
    """

    name: str
    network: str
    probe: Probe
    own: OwnResults | None
    relation: LabelRelation
    parameters: int
    width: int
    notes: tuple[str, ...] = ()


def rank(resolved: Resolved) -> list[Ranked]:
    """Rank every teacher of a config, whatever its method reads; nothing is trained, and no run is written.

    In increments these are the teachers beside the steps' models, and the classes are those of the first step.

    Args:
        resolved: an experiment with ``teachers``, or one ``teacher``, whose weights are given.

    Returns:
        The teachers by the accuracy of the nearest class mean in their embedding, the best first; equal ones in the
        config's order.

    Raises:
        UserError: no teacher, one that would have to be trained first, no validation images, or a teacher that a run
            would refuse.
    """
    _check_candidates(resolved.experiment)
    use_threads(resolved.experiment.run.threads)
    method = load_method(_READS_ALL)
    experiment = of_generation(resolved.experiment.model_copy(update={"method": method}), 1)
    prepared = prepare(replace(resolved, experiment=experiment))
    if not can_probe(prepared.problem):
        raise UserError(
            "gkd rank judges teachers on validation images of the student's classes, and there are none that are not "
            "trained on; hold some out by data.validation={fraction: 0.1}, in a task that does.",
            code="no-validation-images",
        )
    return sorted(_judged(prepared), key=lambda each: each.probe.nearest_mean, reverse=True)


def _check_candidates(experiment: Experiment) -> None:
    """Refuse an experiment without teachers to rank, or with one whose weights are not there yet."""
    steps = students_teach(experiment.task.name)
    sections = teacher_sections(experiment)
    if steps:  # the one teacher is then the first step's model
        sections.pop(ONLY, None)
    if not sections:
        given = "beside the previous step's model, " if steps else ""
        raise UserError(
            f"The config gives no teacher to rank; name some in its section teachers, {given}such as "
            "teachers: {large: {network: wrn_40_2, checkpoint: FILE}}.",
            code="teacher-missing",
        )
    untrained = [key for key, section in sections.items() if not section.is_given]
    if untrained:
        verb = "is" if len(untrained) == 1 else "are"
        raise UserError(
            f"gkd rank trains nothing, and {', '.join(untrained)} {verb} trained first; give the checkpoint or "
            "pretrained of each teacher, or leave it out by setting it to null.",
            code="teacher-not-given",
        )


def _judged(prepared: Prepared) -> Iterator[Ranked]:
    """Each teacher, judged alone in the config's order; what one puts out is freed before the next."""
    for name in prepared.experiment.teachers or (ONLY,):
        several = name in prepared.experiment.teachers
        with of_named(name) if several else nullcontext():
            alone = prepared.of_teacher(name) if several else replace(prepared, notes=())
            section = teacher_section(alone.experiment)
            teacher, known = load_teacher(alone, section.checkpoint)
            known = replace(known, settings=replace(known.settings, caches=Caches()))
            own = expected_results(teacher, known, section.checkpoint)
            knows = probe(teacher, known.problem, known.settings)
        assert knows is not None  # for can_probe is True
        yield Ranked(
            name=name,
            network=section.network,
            probe=knows,
            own=own,
            relation=known.problem.relation,
            parameters=count_parameters(teacher.network),
            width=teacher.network.embedding_dim,
            notes=known.notes,
        )
