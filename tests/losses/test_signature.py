"""What every loss of gkd makes of masks and labels of other types, and of options beyond what float32 holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gkd.core.errors import UserError
from gkd.losses import LOSSES, affinity_loss, at_loss, cc_loss, cross_entropy_loss, kd_loss, stkd_loss
from gkd.losses.signature import Filled, Range, number_problem, signature_of
from tests.refusals import refused

from .all_specs import SPECS

FUNCTIONS = {name: loss for name, loss in LOSSES.items() if loss.module is None}
# Those that a module calls with what it has made of the inputs are public functions too.
SIGNATURES = {name: signature_of(loss.function) for name, loss in LOSSES.items()}
BATCH = 9
MASK = torch.arange(BATCH) != 4


def evaluate(name: str, mask: object = None, **changed: object) -> Tensor:
    signature, spec = SIGNATURES[name], SPECS[name]
    inputs = {**spec.make(BATCH), **changed}
    more = {signature.filled[Filled.MASK]: mask} if mask is not None else {}
    return LOSSES[name].function(*(inputs[need] for need in signature.needs), **spec.options[0], **more)


@pytest.mark.parametrize("name", [name for name, each in SIGNATURES.items() if Filled.MASK in each.filled])
def test_a_mask_holds_one_truth_value_a_row(name: str) -> None:
    for wrong in (
        MASK.float(),
        MASK.long(),
        MASK.byte(),
        MASK.nonzero()[:, 0],
    ):  # weights, numbers, row numbers
        with refused("not-boolean"):
            evaluate(name, wrong)
    with refused("not-a-vector"):
        evaluate(name, MASK[:, None])
    for short in (MASK[:1], MASK[:-1]):  # one would be broadcast
        with refused("other-batch-sizes"):
            evaluate(name, short)
    with refused("not-a-tensor"):
        evaluate(name, MASK.tolist())


def test_a_mask_is_held_against_a_student_that_is_named_too() -> None:
    logits, labels = torch.zeros(BATCH, 3), torch.zeros(BATCH, dtype=torch.int64)
    with refused("other-batch-sizes"):
        cross_entropy_loss(student_logits=logits, labels=labels, mask=MASK[:1])


@pytest.mark.parametrize("need", ["labels", "way", "support", "known"])
def test_columns_may_be_of_any_integer_type_and_nothing_else(need: str) -> None:
    for name, loss in FUNCTIONS.items():
        if need not in loss.needs:
            continue
        given, expected = SPECS[name].make(BATCH)[need], evaluate(name)
        if given.dtype == torch.bool:
            with refused("not-boolean"):
                evaluate(name, **{need: given.float()})
            continue
        if given.is_floating_point():
            continue  # distributions over classes
        for kind in (torch.int32, torch.int16, torch.uint8):
            assert torch.equal(evaluate(name, **{need: given.to(kind)}), expected), name
        for kind in (torch.float32, torch.bool):
            with refused("not-whole-numbers"):
                evaluate(name, **{need: given.to(kind)})
        with refused("not-a-vector"):
            evaluate(name, **{need: given[:, None]})


def test_labels_may_be_distributions() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    one_hot = torch.nn.functional.one_hot(labels, 3)
    assert torch.allclose(cross_entropy_loss(logits, one_hot.float()), cross_entropy_loss(logits, labels))
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    assert torch.equal(stkd_loss(student, teacher, one_hot), stkd_loss(student, teacher, one_hot.float()))
    with refused("not-a-vector"):
        cross_entropy_loss(logits, labels[:, None])


@pytest.mark.parametrize("power", [1e-3, 0.5, 1.0, 1.5, 2.0, 3.0, 100.0])
def test_attention_has_a_finite_gradient_where_maps_hold_zeros(power: float) -> None:
    student = torch.randn(3, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    student = torch.where(student > 0.2, student, 0)
    student[0] = 0
    student[1, 0, 0, 0] = 1e-45  # smaller than any normal number of float32
    teacher = student.flip(0) + 1
    gradients = []
    for kind in (torch.float32, torch.float64):
        leaf = student.to(kind).requires_grad_()
        value = at_loss(leaf, teacher.to(kind), power=power)
        value.backward()
        assert leaf.grad is not None
        assert torch.isfinite(value)
        assert torch.isfinite(leaf.grad).all()
        gradients.append(leaf.grad.double())
    is_zero = student.float() == 0
    assert (gradients[0][is_zero] == 0).all()
    largest = gradients[1][~is_zero].abs().max()
    normal = student.abs() > 1e-30
    if power <= 3:  # beyond, rounding grows with the power
        assert torch.allclose(gradients[0][normal], gradients[1][normal], atol=1e-4 * float(largest))


def test_high_degrees_are_computed_or_refused() -> None:
    student, teacher = torch.randn(6, 8), torch.randn(6, 8)
    last = cc_loss(student, teacher, bandwidth=40.0, order=100)
    assert torch.isfinite(last)
    cosine = (
        torch.nn.functional.normalize(student.double()) @ torch.nn.functional.normalize(student.double()).T
    )
    other = (
        torch.nn.functional.normalize(teacher.double()) @ torch.nn.functional.normalize(teacher.double()).T
    )
    gauss = ((2 * 3 * (cosine - 1)).exp() - (2 * 3 * (other - 1)).exp()).square().mean()
    assert cc_loss(student, teacher, bandwidth=3.0, order=100).item() == pytest.approx(gauss.item(), rel=1e-4)
    for wrong in ({"order": 1000}, {"order": 0}, {"bandwidth": 41.0}):
        with refused("option-out-of-range"):
            cc_loss(student, teacher, **wrong)  # type: ignore[arg-type]
    for affinity, degree in (("polynomial", 11), ("polynomial", 1000), ("taylor-rbf", 101)):
        with refused("option-out-of-range"):
            affinity_loss(student, teacher, affinity=affinity, degree=degree)  # type: ignore[arg-type]
    with refused("option-out-of-range"):
        affinity_loss(student, teacher, affinity="taylor-rbf", bandwidth=41.0)


def test_numbers_beyond_floats_are_refused() -> None:
    for value in (10**400, -(10**5000), float("inf"), float("nan"), True, "1"):
        assert "is not a finite number" in str(number_problem("power", value, Range()))
    with pytest.raises(UserError, match="power"):
        at_loss(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), power=10**400)


def test_a_vast_whole_number_is_computed_as_the_number_that_it_is() -> None:
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    whole, same = (kd_loss(student, teacher, temperature=value) for value in (10**15, 1e15))
    assert torch.equal(whole, same)
