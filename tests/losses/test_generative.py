"""mgd and norm: the authors' numbers, the draws, and what does not fit."""

from __future__ import annotations

import pytest
import torch

from gkd.losses import MGDLoss, NORMLoss, mgd_loss, norm_loss
from tests.refusals import refused

from .waves import wave


def test_mgd_is_the_authors() -> None:
    """The number is that of yzd-v/MGD@2c9da0b cls/mmcls/distillation/losses/mgd.py, in float64."""
    module = MGDLoss((3, 3, 3), (4, 3, 3)).double()
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(wave(*parameter.shape, phase=0.1 + 0.1 * number))
    kept = wave(5, 4, phase=0.55) > -0.3
    loss = module(wave(5, 3, 3, 3, phase=0.2), wave(5, 4, 3, 3, phase=0.9), kept=kept)
    assert float(loss.detach()) == pytest.approx(1326.2978548613303, rel=1e-12)


def test_channels_are_dropped_by_the_global_generator() -> None:
    student, teacher = wave(64, 4, 2, 2, phase=0.2).float(), wave(64, 4, 2, 2, phase=0.9).float()
    module = MGDLoss((4, 2, 2), (4, 2, 2), dropped=0.25)
    torch.manual_seed(5)
    first, second = (module(student, teacher) for _ in range(2))
    assert first != second
    torch.manual_seed(5)
    torch.testing.assert_close(module(student, teacher), first, rtol=0, atol=0)
    torch.manual_seed(5)
    kept = torch.rand(64, 4) >= 0.25
    torch.testing.assert_close(module(student, teacher, kept=kept), first, rtol=0, atol=0)
    everything = MGDLoss((4, 2, 2), (4, 2, 2), dropped=0.0)
    torch.testing.assert_close(
        everything(student, teacher),
        everything(student, teacher, kept=torch.ones(64, 4, dtype=torch.bool)),
    )


def test_equal_channels_need_no_alignment() -> None:
    assert len(MGDLoss((4, 2, 2), (4, 2, 2)).align) == 0
    assert len(MGDLoss((4, 2, 2), (5, 2, 2)).align) == 1


def test_norm_is_the_authors_mean_times_n() -> None:
    """That of F.mse_loss with N repeated, max-pooled maps, times N, as OSVAI/NORM@c6dfc39 computes it, in float64."""
    loss = norm_loss(wave(5, 8, 2, 2, phase=0.2), wave(5, 4, 4, 4, phase=0.9))
    assert float(loss) == pytest.approx(2.226174154808071, rel=1e-12)


def test_norm_widens_the_student_to_n_times_the_teachers_channels() -> None:
    assert NORMLoss((3, 2, 2), (4, 2, 2), copies=5).expansion[0].out_channels == 20


def test_maps_that_do_not_fit_are_refused() -> None:
    with refused("other-shapes"):
        mgd_loss(torch.zeros(2, 3, 2, 2), torch.zeros(2, 4, 2, 2))
    with refused("other-channels"):
        norm_loss(torch.zeros(2, 6, 2, 2), torch.zeros(2, 4, 2, 2))
    for module in (MGDLoss, NORMLoss):
        with refused("not-a-map"):
            module((3, 2, 2), (6,))
