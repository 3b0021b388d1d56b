"""mutual: what public code computes, without a gradient to the peer."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from gkd.losses import mutual_loss
from tests.refusals import refused


def test_it_is_the_divergence_of_public_code() -> None:
    """chxy95/Deep-Mutual-Learning@88371a3, trainer.py: ``KLDivLoss('batchmean')`` on log_softmax and softmax."""
    torch.manual_seed(0)
    student, peer = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    value = mutual_loss(student, peer)
    torch.testing.assert_close(
        value, F.kl_div(student.log_softmax(1), peer.softmax(1), reduction="batchmean")
    )
    value.backward()
    assert peer.grad is None
    # The gradient of KL(p_P ‖ p_S) with respect to the student's logits is p_S − p_P.
    torch.testing.assert_close(student.grad, (student.softmax(1) - peer.softmax(1)) / 6)


def test_other_columns_are_told_of_the_peer() -> None:
    with refused("other-shapes"):
        mutual_loss(torch.zeros(2, 3), torch.zeros(2, 4))
