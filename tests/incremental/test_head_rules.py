"""Rules after an incremental step: weight alignment and bias correction."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.incremental.head_rules import RULES, align_weights, correct_bias, fit_bias, fold_bias
from gkd.methods.method import Rule
from gkd.models import CosineHead
from tests.refusals import refused


def linear(weight: list[list[float]], bias: bool = True) -> nn.Linear:
    head = nn.Linear(len(weight[0]), len(weight), bias=bias)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(weight))
    return head


def test_a_method_may_name_the_rules_that_there_are() -> None:
    assert set(get_args(Rule)) == set(RULES)


def test_wa_by_hand() -> None:
    """Old rows of lengths 5 and 1, new ones of 10 and 2: γ = 3 / 6, where sums of entries would give 8 / 12."""
    head = linear([[3.0, 4.0], [1.0, 0.0], [0.0, 10.0], [0.0, -2.0]])
    bias = head.bias.detach().clone()
    assert align_weights(head, 2) == pytest.approx(0.5)
    expected = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 5.0], [0.0, -1.0]])
    torch.testing.assert_close(head.weight.detach(), expected)
    torch.testing.assert_close(head.bias.detach(), bias)
    assert align_weights(head, 2) == pytest.approx(1)


def test_wa_clips_first_where_asked() -> None:
    head = linear([[3.0, -4.0], [6.0, 8.0]])
    assert align_weights(head, 1, clip=True) == pytest.approx(0.3)
    torch.testing.assert_close(head.weight.detach(), torch.tensor([[3.0, 0.0], [1.8, 2.4]]))


def test_wa_refuses_what_it_cannot_align() -> None:
    with refused("needs-linear-head"):
        align_weights(CosineHead(2, 3), 1)
    for num_old in (0, 3):
        with refused("num-old-out-of-range"):
            align_weights(nn.Linear(2, 3), num_old)
    with refused("zero-weights"):
        align_weights(linear([[1.0], [0.0]]), 1)


def held_out() -> tuple[Tensor, Tensor]:
    """One old class at 0. Where the new one's logit is 0, 3 of 4 are new: β = ln 3; at −1 2 of 4: −α + ln 3 = 0."""
    logits = torch.tensor([[0.0, 0.0]] * 4 + [[0.0, -1.0]] * 4)
    return logits, torch.tensor([1, 1, 1, 0, 1, 1, 0, 0])


FREE = {"scale_decay": 0.0, "shift_decay": 0.0}


def test_bic_by_hand() -> None:
    alpha, beta = fit_bias(*held_out(), 1, **FREE)
    assert alpha == pytest.approx(math.log(3), rel=1e-6)
    assert beta == pytest.approx(math.log(3), rel=1e-6)


def test_bic_is_fitted_on_logits_and_not_on_their_softmax() -> None:
    """A known trap: the cross-entropy of probabilities, taken for logits, has another best α and β."""
    logits, labels = held_out()
    alpha, beta = fit_bias(logits, labels, 1, **FREE)
    theta = torch.tensor([alpha, beta]).double().requires_grad_()
    corrected = torch.cat([logits[:, :1].double(), theta[0] * logits[:, 1:] + theta[1]], 1)
    (gradient,) = torch.autograd.grad(F.cross_entropy(corrected, labels), theta, retain_graph=True)
    assert gradient.abs().max() < 1e-7
    (doubled,) = torch.autograd.grad(F.cross_entropy(corrected.softmax(1), labels), theta)
    assert doubled.abs().max() > 1e-3


def test_bic_undoes_a_bias() -> None:
    """Logits whose new columns were turned to (z − 0.7) / 2 come back."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 6, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    biased = torch.cat([logits[:, :4], (logits[:, 4:] - 0.7) / 2], 1)
    alpha, beta = fit_bias(biased, labels, 4, **FREE)
    assert alpha == pytest.approx(2, abs=0.1)
    assert beta == pytest.approx(0.7, abs=0.1)


def test_bic_stays_near_where_it_starts_when_few_images_are_told_apart() -> None:
    """Nothing bounds α there but a decay: with 79 and −596, as it once was, the next step starts from a spoilt head."""
    logits, labels = 2 * torch.eye(4), torch.arange(4)
    assert fit_bias(logits, labels, 2, **FREE)[0] > 20
    assert fit_bias(logits, labels, 2, scale_decay=0.0)[0] > 10
    alpha, beta = fit_bias(logits, labels, 2)
    assert 1 < alpha < 2
    assert abs(beta) < 1
    theta = torch.tensor([alpha, beta]).double().requires_grad_()
    corrected = torch.cat([logits[:, :2].double(), theta[0] * logits[:, 2:] + theta[1]], 1)
    (gradient,) = torch.autograd.grad(F.cross_entropy(corrected, labels), theta)
    assert gradient.tolist() == pytest.approx([-(alpha - 1) / 4, -0.1 * beta], abs=1e-6)


def test_bic_needs_images_of_both() -> None:
    logits, labels = held_out()
    with refused("no-held-out-images"):
        fit_bias(logits[labels == 1], labels[labels == 1], 1)


def test_a_folded_bias_is_the_corrected_logits() -> None:
    torch.manual_seed(0)
    head, rows = nn.Linear(4, 5), torch.randn(3, 4)
    expected = correct_bias(head(rows), 3, 0.5, -0.2).detach()
    assert not torch.allclose(expected[:, 3:], head(rows)[:, 3:])
    fold_bias(head, 3, 0.5, -0.2)
    torch.testing.assert_close(head(rows).detach(), expected)
    with refused("no-bias"):
        fold_bias(linear([[1.0], [1.0]], bias=False), 1, 0.5, 0.1)
