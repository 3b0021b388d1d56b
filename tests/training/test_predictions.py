"""A network's outputs over an image set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from gkd.distill.teacher import Teacher
from gkd.storage.weights import copy_state
from gkd.training.predictions import predict, teacher_predictions
from tests.refusals import refused
from tests.training_helpers import SETTINGS, Trainer


def test_predictions_do_not_depend_on_the_batch_size_and_leave_the_mode(
    trainer: Callable[..., Trainer],
) -> None:
    run = trainer()
    student, images = run.student().train(), run.problem.student.test
    before = copy_state(student)
    logits, embedding = predict(student, images, SETTINGS)
    assert student.training
    assert all(torch.equal(student.state_dict()[name], before[name]) for name in before)
    small, _ = predict(student, images, replace(SETTINGS, evaluate_batch_size=5))
    assert logits.shape == (64, 3)
    assert embedding.shape == (64, 64)
    assert torch.allclose(logits, small, atol=1e-5)


def test_outputs_that_are_not_finite_are_no_predictions(
    trainer: Callable[..., Trainer], make_teacher: Callable[..., Teacher]
) -> None:
    run = trainer()
    student, images = run.student(), run.problem.student.test
    with torch.no_grad():
        student.head.bias[1] = torch.nan  # type: ignore[union-attr, index]
    with refused("outputs-not-finite"):
        predict(student, images, SETTINGS)
    teacher = make_teacher(list(run.problem.relation.teacher), std=(1e-45,))
    with refused("outputs-not-finite"):
        teacher_predictions(teacher, images, SETTINGS)
