"""Checks of an incremental run's plan and student, before anything is trained."""

from __future__ import annotations

import copy

import torch
from torch import nn

from gkd.core.errors import UserError
from gkd.core.network import as_network
from gkd.core.tapped import network_name
from gkd.distill.teacher import Teacher
from gkd.incremental.head_rules import check_rules
from gkd.incremental.step import Step, num_held_out
from gkd.methods.method import Method
from gkd.methods.readers import without_terms
from gkd.methods.term_checks import ONLY, PREVIOUS
from gkd.models import EXTRACTORS, check_expandable, expand, grow_head
from gkd.models.head_check import head_gives_logits
from gkd.models.heads import CosineHead, ProxyHead, grow
from gkd.problems.plan import Plan, PlannedNetwork
from gkd.problems.problem import Problem
from gkd.training.loop import check_method


def check_growth(method: Method, step: Step, student: nn.Module) -> None:
    """Refuse a student with which a later step would fail, before the first one is trained.

    Args:
        method: says how the student grows, and what follows a step.
        step: any of the run.
        student: as it is built for one.

    Raises:
        UserError: a head that the method's rules do not fit or that cannot be frozen or grow, or a network whose
            logits are not its head's of its embedding.
    """
    head = as_network(student).head
    if (method.after or not step.fresh) and not head_gives_logits(student, step.images.image_shape):
        raise UserError(
            f"The logits of the {network_name(student)} are not what its head makes of its embedding (it has a second "
            "head, something behind the head, or taps.embedding elsewhere), so new classes cannot be added by growing "
            "that head, nor its weights be corrected after a step; take another student.network, or train a new one "
            "in every step by task.fresh_student=true and a method without method.after.",
            code="head-gives-not-the-logits",
        )
    if method.growth.extractor == "expand":
        check_expandable(student)
    check_rules(method.after, head)
    if step.fresh:
        return
    if method.growth.old == "frozen" and not isinstance(head, CosineHead):
        raise UserError(
            f"The method {method.name!r} freezes the old classes' columns, which a {type(head).__name__} cannot; set "
            "student.options={head: cosine} or method.growth.old=trained.",
            code="needs-cosine-head",
        )
    with torch.random.fork_rng(devices=[]):
        grow(head, 1)


def check_imprints(method: Method, student: nn.Module, step: Step) -> None:
    """Refuse new columns that are to be imprinted from fewer images of a class than it has proxies.

    Args:
        method: says how new columns start.
        student: its head says how many proxies a class has.
        step: one with old classes, and what it holds out.
    """
    head = as_network(student).head
    if method.growth.new != "imprint" or step.fresh:
        return
    needed = head.num_proxies if isinstance(head, ProxyHead) else 1
    counts = step.new_images().class_counts()
    for name in step.new:
        count = int(counts[step.seen.column(name)])
        if count < needed:
            raise UserError(
                f"The class {name!r} of step {step.number + 1} has {count} training images, from which "
                f"method.growth.new=imprint makes {needed} of the head's columns or proxies; set "
                f"method.growth={{new: random}}, or give it {needed} images or more.",
                code="too-few-images",
            )


def check_taught(problem: Problem, method: Method, student: nn.Module) -> None:
    """Refuse terms that do not fit the networks of the first step with old classes, on copies that nothing has trained.

    Args:
        problem: that step's.
        method: the method.
        student: as it is built for the step before, or for this one where it starts afresh. Of one that need not grow
            and cannot, nothing is known of this step's.
    """
    if not head_gives_logits(student, problem.student.train.image_shape):
        return
    teacher = copy.deepcopy(student)
    grown = copy.deepcopy(student)
    num_new = len(problem.student.train.space) - as_network(student).num_classes
    with torch.random.fork_rng(devices=[]):
        if num_new > 0 and method.growth.extractor == "expand":
            grown = expand(grown, num_new)
        elif num_new > 0:
            grow_head(grown, num_new)
    read: Method | None = method
    if problem.teachers:  # which are checked when they are loaded
        read = without_terms(method, lambda term: term.teacher not in (None, PREVIOUS))
    if read is not None:
        guides = {PREVIOUS if problem.teachers else ONLY: Teacher(teacher)} if read.needs_teacher else None
        check_method(read, grown, guides, problem)


def check_incremental(plan: Plan, step: Step) -> None:
    """Refuse a plan that an incremental run cannot follow."""
    method = plan.method
    if (method.exemplars or not method.judged_by_head) and not step.remembers():
        why = "rehearses" if method.exemplars else "is judged by the nearest class mean of"
        raise UserError(
            f"The method {method.name!r} {why} exemplars of old classes, but the task keeps none; set "
            "task.memory_per_class=20, or task.memory_total=2000.",
            code="needs-memory",
        )
    if plan.student.checkpoint is not None or plan.student.pretrained:
        raise UserError(
            "An incremental student starts from the model of the step before; give a first one as the teacher: "
            "teacher.checkpoint instead of student.checkpoint or student.pretrain.",
            code="student-checkpoint",
        )
    if method.growth.extractor == "expand" and step.fresh:
        raise UserError(
            f"The method {method.name!r} adds an extractor to the model of the step before, but "
            "task.fresh_student=true starts every student anew; drop task.fresh_student, or use a method that distils, "
            "such as podnet.",
            code="expand-fresh-not-together",
        )
    if EXTRACTORS in plan.student.options:
        raise UserError(
            f"student.options.{EXTRACTORS} is for loading what was expanded; an incremental student has one extractor "
            "and grows others where method.growth.extractor=expand: drop that option.",
            code="option-reserved",
        )
    if method.head != "own":
        raise UserError(
            f"The method {method.name!r} ends the student behind a projector to its teacher's embedding, but an "
            "incremental student starts from the model of the step before; use another method.",
            code="projector-in-steps",
        )
    if plan.teacher_sees_others:
        raise UserError(
            "In an incremental run the student of one step teaches the next, so both see the same images; drop "
            "data.teacher_view and teacher.data.",
            code="teacher-sees-others",
        )
    if step.start_from > 0 and plan.teacher is None:
        raise UserError(
            f"task.start_from={step.start_from + 1} needs the model of that step; give it as teacher.network and "
            "teacher.checkpoint.",
            code="needs-teacher",
        )
    if method.held_out:
        # Before the last step a shared total leaves the fewest to each class.
        budget = step.rehearsal.per_class(sum(map(len, step.steps[:-1])))
        num_held_out(method.held_out, budget)


def check_first_model(plan: Plan, step: Step) -> None:
    """Refuse a student that cannot grow out of the first model, as far as the plan states that model."""
    teacher, student = plan.teacher, plan.student
    if teacher is None or step.fresh:
        return
    same = teacher.network == student.network
    if teacher.checkpoint is None:  # a weight file may state other options
        same = same and teacher.options == student.options
    if not same:
        raise UserError(
            f"The model of step {step.start_from + 1} is the teacher's {_shown(teacher)}, and the student "
            f"{_shown(student)}, which cannot grow out of it; make them the same, or set task.fresh_student=true.",
            code="other-network",
        )


def _shown(planned: PlannedNetwork) -> str:
    return f"{planned.network} with the options {planned.options}" if planned.options else planned.network
