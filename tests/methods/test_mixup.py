"""Virtual samples: what they are mixed of, and what the teacher says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from gkd.core.batch import Batch
from gkd.distill.mixing import Mixture, draw_mixture, interpolated_logits, mix, mix_batch
from gkd.methods.mixup import Mixup

CPU = torch.device("cpu")
MakeBatch = Callable[..., Batch]


@pytest.mark.parametrize("options", [{}, {"images": 3}, {"per": "sample"}, {"alpha": 0.2, "images": 4}])
def test_weights_sum_to_one_and_partners_are_permutations(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    mixup = Mixup.model_validate(options)
    mixture = draw_mixture(mixup, 8, CPU)
    assert mixture.partner.shape == mixture.weight.shape == (8, mixup.images)
    assert mixture.partner[:, 0].tolist() == list(range(8))
    assert all(sorted(column.tolist()) == list(range(8)) for column in mixture.partner.T)
    torch.testing.assert_close(mixture.weight.sum(1), torch.ones(8))
    assert (mixture.weight >= 0).all()
    assert bool((mixture.weight == mixture.weight[:1]).all()) == (mixup.per == "batch")


def test_two_images_are_weighted_by_a_beta_distribution() -> None:
    torch.manual_seed(0)
    weight = draw_mixture(Mixup(alpha=2.0, per="sample"), 20_000, CPU).weight[:, 0]
    assert float(weight.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(weight.var()) == pytest.approx(1 / (4 * (2 * 2 + 1)), rel=0.05)  # of Beta(a, a)


def test_a_fixed_weight_leaves_the_rest_to_the_others() -> None:
    mixture = draw_mixture(Mixup(images=3, weight=0.5), 4, CPU)
    torch.testing.assert_close(mixture.weight, torch.tensor([[0.5, 0.25, 0.25]]).expand(4, 3))


def test_a_virtual_batch_is_the_weighted_sum_of_its_parts(make_batch: MakeBatch) -> None:
    batch = make_batch(3, size=4)
    batch = replace(batch, view=2 * batch.images)
    mixture = Mixture(torch.tensor([[0, 2], [1, 0], [2, 3], [3, 1]]), torch.tensor([[0.75, 0.25]] * 4))
    virtual = mix_batch(batch, mixture, 3)
    torch.testing.assert_close(virtual.images[1], 0.75 * batch.images[1] + 0.25 * batch.images[0])
    torch.testing.assert_close(virtual.view, 2 * virtual.images)
    assert virtual.labels.tolist() == [[0.75, 0, 0.25], [0.25, 0.75, 0], [0.25, 0, 0.75], [0.75, 0.25, 0]]
    torch.testing.assert_close(mix(batch.labels.float(), mixture), torch.tensor([0.5, 0.75, 1.5, 0.25]))


def test_interpolated_logits_are_those_of_the_mixed_distributions() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    mixture = Mixture(torch.tensor([[0, 2], [1, 0], [2, 3], [3, 1]]), torch.tensor([[0.75, 0.25]] * 4))
    soft = (logits / 3).softmax(1)
    expected = mix(soft, mixture)
    torch.testing.assert_close((interpolated_logits(logits, mixture, 3.0) / 3).softmax(1), expected)
