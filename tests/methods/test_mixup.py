"""Virtual samples: what they are mixed of, and what the teacher says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from gkd.core.batch import Batch
from gkd.distill.mixing import Mixture, draw_mixture, interpolated_logits, mix, mix_batch
from gkd.methods.mixup import Mixup, without_mixup
from tests.refusals import refused

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


def test_boxes_have_the_papers_area_and_lie_inside() -> None:
    """Yun et al., eq. 2: a box of the image's proportions, of the second weight's area, around a uniform pixel."""
    torch.manual_seed(0)
    boxes = []
    for _ in range(3000):
        mixture = draw_mixture(Mixup(kind="cutmix", weight=0.75), 1, CPU, (32, 48))
        assert mixture.box is not None
        boxes.append((mixture.box[0] * torch.tensor([32, 48, 32, 48]), mixture.weight[0]))
    edges = torch.stack([box for box, _ in boxes])
    weights = torch.stack([weight for _, weight in boxes])
    assert edges.equal(edges.round())  # whole pixels
    height, width = edges[:, 2] - edges[:, 0], edges[:, 3] - edges[:, 1]
    assert int(height.max()) == 16  # sqrt(0.25) of 32
    assert int(width.max()) == 24
    assert float(edges.min()) == 0
    assert edges[:, 2].max() == 32
    assert edges[:, 3].max() == 48
    torch.testing.assert_close(weights[:, 1], height * width / (32 * 48))
    torch.testing.assert_close(weights.sum(1), torch.ones(3000))
    # Each pixel is in a box with the probability that a centre within half a side of it is drawn.
    middle = (
        ((edges[:, 0] <= 16) & (edges[:, 2] > 16) & (edges[:, 1] <= 24) & (edges[:, 3] > 24)).double().mean()
    )
    assert float(middle) == pytest.approx(0.25, abs=0.03)


def test_weights_of_boxes_are_from_a_beta_distribution() -> None:
    torch.manual_seed(0)
    mixture = draw_mixture(Mixup(kind="cutmix", alpha=1.0, per="sample"), 20_000, CPU, (256, 256))
    assert mixture.box is not None
    top, left, bottom, right = mixture.box.unbind(1)
    inside = (top > 0) & (left > 0) & (bottom < 1) & (right < 1)
    # A square of side s lies inside with probability (1 - s)²; s² is uniform, so of those (1 - s)² · 2s is the density.
    sides = (bottom - top)[inside]
    assert float(inside.double().mean()) == pytest.approx(1 / 6, abs=0.02)
    assert float(sides.mean()) == pytest.approx(2 / 5, abs=0.02)  # of Beta(2, 3)


def test_a_box_of_another_image_is_put_into_each(make_batch: MakeBatch) -> None:
    batch = make_batch(3, size=4)
    batch = replace(batch, view=2 * batch.images.repeat_interleave(2, 2).repeat_interleave(2, 3))
    partner = torch.tensor([[0, 2], [1, 0], [2, 3], [3, 1]])
    box = torch.tensor([[0.25, 0.0, 0.75, 0.5]]).expand(4, 4)
    virtual = mix_batch(batch, Mixture(partner, torch.tensor([[0.75, 0.25]] * 4), box), 3)
    for row in range(4):
        expected = batch.images[row].clone()
        expected[:, 2:6, 0:4] = batch.images[partner[row, 1], :, 2:6, 0:4]  # of 8 pixels a side
        assert virtual.images[row].equal(expected)
    assert virtual.labels.tolist() == [[0.75, 0, 0.25], [0.25, 0.75, 0], [0.25, 0, 0.75], [0.75, 0.25, 0]]
    assert virtual.view is not None
    assert virtual.view.equal(2 * virtual.images.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_with_a_probability_some_draws_mix_nothing(kind: str) -> None:
    torch.manual_seed(0)
    options = Mixup.model_validate({"kind": kind, "probability": 0.3, "per": "sample", "weight": None})
    mixture = draw_mixture(options, 4000, CPU, (64, 64))
    alone = mixture.weight[:, 0] == 1
    assert float(alone.double().mean()) == pytest.approx(0.7, abs=0.05)
    if mixture.box is not None:
        empty = (mixture.box[:, 2] <= mixture.box[:, 0]) | (mixture.box[:, 3] <= mixture.box[:, 1])
        assert bool((empty == alone).all())
    logits = torch.randn(4000, 3)
    assert interpolated_logits(logits, mixture, 2.0).isfinite().all()
    torch.testing.assert_close(
        interpolated_logits(logits, mixture, 2.0)[alone].softmax(1), logits[alone].softmax(1)
    )


def test_mixup_draws_what_it_drew_before_there_was_cutmix() -> None:
    torch.manual_seed(3)
    mixture = draw_mixture(Mixup(per="sample"), 4, CPU)
    torch.manual_seed(3)
    partner = torch.randperm(4)
    weight = torch.distributions.Dirichlet(torch.ones(4, 2)).sample()
    assert mixture.partner[:, 1].equal(partner)
    assert mixture.weight.equal(weight)
    assert mixture.box is None


@pytest.mark.parametrize(
    ("augment", "expected"),
    [
        ("crop-flip", ("crop-flip", None)),
        ("crop-flip+mixup", ("crop-flip", Mixup())),
        ("mixup(alpha=0.2, images=3)", ("none", Mixup(alpha=0.2, images=3))),
        ("crop+cutmix", ("crop", Mixup(kind="cutmix"))),
        ("cutmix(alpha=2, probability=0.5)", ("none", Mixup(kind="cutmix", alpha=2, probability=0.5))),
    ],
)
def test_the_last_link_of_an_augmentation_mixes(augment: str, expected: object) -> None:
    assert without_mixup(augment) == expected


@pytest.mark.parametrize(
    ("augment", "code"),
    [
        ("cutmixx", "augmentation-form"),
        ("cutmix(images=2)", "augmentation-form"),
        ("cutmix(probability=0)", "invalid-option"),
        ("crop+cutmix(alpha=-1)", "invalid-option"),
    ],
)
def test_another_last_link_is_refused(augment: str, code: str) -> None:
    with refused(code):
        without_mixup(augment)


def test_a_box_is_of_one_other_image() -> None:
    with pytest.raises(ValidationError, match="images is 2, not 3"):
        Mixup(kind="cutmix", images=3)
