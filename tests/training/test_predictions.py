"""A network's outputs over an image set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from gkd.storage.weights import copy_state
from gkd.training.predictions import predict
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
