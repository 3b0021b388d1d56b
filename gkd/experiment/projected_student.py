"""The student of a method that ends it in a teacher's embedding: a projector, and the teacher's head behind it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from gkd.core.errors import UserError
from gkd.core.tapped import network_name, output_shapes
from gkd.distill.side import Guides, by_name
from gkd.distill.teacher import Teacher
from gkd.experiment.prepare import Prepared
from gkd.methods.refusal import refusal
from gkd.models import ProjectedNetwork, Projection, projected

_SEED = 7_561  # of the projector's initial weights, beside the run's


def with_projector(prepared: Prepared, teachers: Guides) -> Prepared:
    """The run with its student behind a projector, where its method asks for one.

    The projector's initial weights follow from the run's seed alone.

    Args:
        prepared: the run, with its teacher's classes.
        teachers: what it learns from; the first one's embedding is the projector's target.

    Raises:
        UserError: no teacher; one that averages no map into its embedding; and for ``head: teacher`` other classes than
            the student's, or a head that is not linear.
    """
    method = prepared.experiment.method
    teacher = next(iter(by_name(teachers).values()), None)
    if method.head == "own" or isinstance(prepared.student, ProjectedNetwork):
        return prepared
    if teacher is None:
        raise UserError(
            f"The method {method.name!r} projects the student to its teacher's embedding, but there is no teacher; "
            "add one, or choose another method.",
            code="needs-teacher",
        )
    problem = prepared.problem
    name = next(iter(by_name(teachers)))
    seen = problem.seen_by(name, problem.student.train).as_teacher_sees.image_shape
    shape = output_shapes(teacher.network, seen).pooled
    if shape is None:
        raise UserError(
            f"The method {method.name!r} projects the student to the map that the teacher averages into its embedding, "
            f"but its {network_name(teacher.network)} is not known to average one; take a network of gkd's own as "
            "teacher, or name that map as the last of teacher.taps.maps.",
            code="no-pooled-map",
        )
    projection = Projection(channels=shape[0], size=(shape[1], shape[2]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(prepared.settings.seed + _SEED)
        student = projected(prepared.student, projection)
    if method.head == "teacher":
        _take_head(student, teacher, prepared)
    device = prepared.settings.device
    return replace(prepared, student=student.to(device, memory_format=torch.channels_last))  # type: ignore[call-overload]


@torch.no_grad()
def _take_head(student: ProjectedNetwork, teacher: Teacher, prepared: Prepared) -> None:
    """Give the student the teacher's head, with the columns in the student's order."""
    head, relation = teacher.network.head, prepared.problem.relation
    reason = refusal(prepared.experiment.method, relation)  # of the classes that its file has
    if reason is not None:
        raise UserError(f"{reason} Use simkd_own_head.", code="method-not-applicable")
    method = prepared.experiment.method.name
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"The method {method!r} ends the student in its teacher's head, which must be linear, not a "
            f"{type(head).__name__}; use simkd_own_head, or another teacher.",
            code="needs-linear-head",
        )
    columns = relation.teacher_index[relation.student_index.argsort()].to(head.weight.device)
    student.head.weight.copy_(head.weight[columns])
    student.head.bias.copy_(torch.zeros(len(columns)) if head.bias is None else head.bias[columns])
