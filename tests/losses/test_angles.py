"""Angles between the samples of a batch, computed a few anchors at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gkd.losses import rkd_angle_loss

from .waves import wave


def test_rkd_angle_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = wave(7, 4, phase=0.2), wave(7, 5, phase=0.9)

    def gradient() -> tuple[Tensor, Tensor]:
        leaf = student.clone().requires_grad_()
        value = rkd_angle_loss(leaf, teacher)
        return value.detach(), torch.autograd.grad(value, leaf)[0]

    whole = gradient()
    monkeypatch.setattr("gkd.losses.angles.CHUNK_ELEMENTS", 2 * 7 * 7)  # two anchors at a time
    torch.testing.assert_close(gradient(), whole)
