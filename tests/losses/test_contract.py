"""The contract of every loss. It finds the losses by itself; each needs a row in `specs.SPECS`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import gkd.losses
from gkd.core.errors import UserError
from gkd.losses import LOSSES, NEEDS
from gkd.losses.signature import Filled, signature_of
from gkd.methods.terms import Term
from tests.refusals import refused

from .all_specs import SPECS
from .references import Inputs

BATCH = 9


def cases() -> Iterator[Any]:
    for name in LOSSES:
        for options in SPECS[name].options if name in SPECS else ({},):
            label = ",".join(f"{key}={value}" for key, value in options.items())
            yield pytest.param(name, options, id=f"{name}-{label or 'default'}")


every_loss = pytest.mark.parametrize(("name", "options"), list(cases()))


def defaults_first(everything: list[Any]) -> list[Any]:
    """Each loss with its first options in the default suite, with the others in the full one: these take long."""
    names = [case.values[0] for case in everything]
    return [
        case
        if names.index(case.values[0]) == place
        else pytest.param(*case.values, id=case.id, marks=pytest.mark.full)
        for place, case in enumerate(everything)
    ]


FUNCTIONS = {name: loss.function for name, loss in LOSSES.items()}
READS = {name: signature_of(function).needs for name, function in FUNCTIONS.items()}


def evaluate(name: str, inputs: Inputs, options: dict[str, Any], **more: Any) -> Tensor:
    return FUNCTIONS[name](*(inputs[need] for need in READS[name]), **options, **more)


def with_gradient(name: str, inputs: Inputs, options: dict[str, Any], **more: Any) -> tuple[Tensor, Inputs]:
    """The value, and its gradient with respect to each of the student's inputs."""
    leaves = {key: x.detach().clone().requires_grad_() for key, x in inputs.items() if is_student(key)}
    value = evaluate(name, {**inputs, **leaves}, options, **more)
    gradients = torch.autograd.grad(value, list(leaves.values()))
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def is_student(key: str) -> bool:
    return (key.startswith("student") and per_sample(key)) or key == "scores"


_BESIDE = ("variance", "margin", "log_normaliser", "queue", "temperature_of_rows")


def per_sample(key: str) -> bool:
    """Whether an input has a row a sample; of those that a module holds or computes itself, some have none."""
    return NEEDS[key].per_sample if key in NEEDS else key not in _BESIDE


def changed(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {key: x.to(dtype) if x.is_floating_point() else x for key, x in inputs.items()}


def rows(inputs: Inputs, index: Tensor) -> Inputs:
    return {key: x[index] if per_sample(key) else x for key, x in inputs.items()}


def test_every_loss_has_a_spec_and_every_spec_a_loss() -> None:
    assert set(SPECS) == set(LOSSES)


def test_every_exported_loss_is_in_the_registry() -> None:
    listed = {loss.function for loss in LOSSES.values()} | {loss.module for loss in LOSSES.values()}
    listed |= {loss.counted for loss in LOSSES.values()}
    exported = {n for n in dir(gkd.losses) if n.endswith(("_loss", "Loss", "_and_count")) and n != "Loss"}
    assert {"kd_loss", "CRDLoss", "tuple_loss_and_count"} < exported
    assert {name for name in exported if getattr(gkd.losses, name) not in listed} == set()


@pytest.mark.parametrize("name", LOSSES)
def test_signature(name: str) -> None:
    loss = LOSSES[name]
    assert loss.needs
    assert set(loss.needs) <= set(NEEDS)
    assert loss.module or set(loss.needs) == set(signature_of(loss.function).needs)
    assert signature_of(loss.function).filled[Filled.MASK] == loss.filled[Filled.MASK] == "mask"
    assert "mask" not in loss.stated_options
    assert all(not isinstance(default, Tensor) for default in loss.options.values())
    assert loss.paper
    assert "Paper:" in (loss.function.__doc__ or "")
    assert "Convention:" in (loss.function.__doc__ or "")


def limited() -> Iterator[Any]:
    """Every option of a loss whose signature says which values it takes."""
    for name, entry in LOSSES.items():
        options = signature_of(entry.module.__init__ if entry.module else entry.function).options
        found = {option: stated for option, stated in options.items() if stated.words or stated.bounds}
        if found:
            yield pytest.param(name, found, id=name)


@pytest.mark.parametrize(("name", "options"), list(limited()))
def test_options_outside_what_the_signature_states_are_refused(name: str, options: dict[str, Any]) -> None:
    """By the loss itself and by a term, in the same words."""
    entry = LOSSES[name]
    for option, stated in options.items():
        wrong = "nonsense" if stated.words else -1
        labels = {"labels": torch.arange(4)} if entry.takes_labels else {}
        shapes = ((4, 2, 2), (4, 2, 2)) if entry.built_from_shapes else ()
        call = partial(entry.module, *shapes, **labels) if entry.module else entry.function
        with pytest.raises(UserError) as refusal:
            call(**{option: wrong})
        with pytest.raises(ValidationError) as of_term:
            Term.model_validate({"loss": name, option: wrong})
        assert str(refusal.value).removesuffix("; choose another value.") in str(of_term.value)


@every_loss
def test_equals_the_reference_by_plain_loops(name: str, options: dict[str, Any]) -> None:
    inputs = SPECS[name].make(BATCH)
    leaves = {key: x.clone().requires_grad_() for key, x in inputs.items() if is_student(key)}
    expected = SPECS[name].reference(**{**inputs, **leaves}, **options)
    expected_gradients = torch.autograd.grad(expected, list(leaves.values()))
    assert expected > 1e-6  # the inputs exercise the loss
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        value, gradients = with_gradient(name, changed(inputs, dtype), options)
        assert value.dim() == 0
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), expected.detach(), rtol=tolerance, atol=0)
        for got, want in zip(gradients.values(), expected_gradients, strict=True):
            atol = tolerance * float(want.abs().max())
            torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=atol)


@every_loss
def test_gradcheck(name: str, options: dict[str, Any]) -> None:
    inputs = SPECS[name].make(7)
    students = [key for key in inputs if is_student(key)]

    def of_students(*values: Tensor) -> Tensor:
        return evaluate(name, {**inputs, **dict(zip(students, values, strict=True))}, options)

    leaves = [inputs[key].clone().requires_grad_() for key in students]
    right = torch.autograd.gradcheck(of_students, leaves, raise_exception=False)
    assert right != SPECS[name].constant_in_the_student


@every_loss
def test_the_teacher_gets_no_gradient(name: str, options: dict[str, Any]) -> None:
    inputs = SPECS[name].make(BATCH)
    inputs = {key: x.requires_grad_() if x.is_floating_point() else x for key, x in inputs.items()}
    evaluate(name, inputs, options).backward()
    reached = {key for key, x in inputs.items() if x.grad is not None}
    assert reached - {*_BESIDE, "student_scale", "student_weight", "attention"} == {
        key for key in inputs if is_student(key)
    }


@every_loss
def test_order_of_the_batch_does_not_matter(name: str, options: dict[str, Any]) -> None:
    inputs = SPECS[name].make(BATCH)
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(0))
    value, gradients = with_gradient(name, inputs, options)
    shuffled_value, shuffled_gradients = with_gradient(name, rows(inputs, order), options)
    if SPECS[name].order_matters:
        assert abs(float(shuffled_value - value)) > 1e-3
        return
    torch.testing.assert_close(shuffled_value, value)
    torch.testing.assert_close(shuffled_gradients, rows(gradients, order))


@every_loss
def test_mask_equals_the_subset_whatever_the_other_rows_hold(name: str, options: dict[str, Any]) -> None:
    inputs = SPECS[name].make(BATCH + 4)
    mask = torch.ones(BATCH + 4, dtype=torch.bool)
    mask[[0, 3, 7, 12]] = False
    value, gradients = with_gradient(name, rows(inputs, mask.nonzero()[:, 0]), options)
    garbage = {key: x.clone() for key, x in inputs.items()}
    for key, x in garbage.items():
        if per_sample(key):
            x[~mask] = torch.nan if x.is_floating_point() else -1
    for filled in (inputs, garbage):
        masked_value, masked_gradients = with_gradient(name, filled, options, mask=mask)
        torch.testing.assert_close(masked_value, value)
        for key, gradient in masked_gradients.items():
            torch.testing.assert_close(gradient[mask], gradients[key])
            assert not gradient[~mask].any()


@every_loss
def test_empty_selection_is_a_zero_with_a_graph(name: str, options: dict[str, Any]) -> None:
    nothing = {"mask": torch.zeros(BATCH, dtype=torch.bool)}
    for batch, more in ((BATCH, nothing), (0, {})):
        value, gradients = with_gradient(name, SPECS[name].make(batch), options, **more)
        assert value == 0, batch
        assert all(not gradient.any() for gradient in gradients.values()), batch


@every_loss
def test_a_student_equal_to_its_teacher(name: str, options: dict[str, Any]) -> None:
    spec = SPECS[name]
    if spec.matched is None:
        assert not any(need.startswith("teacher_") for need in signature_of(LOSSES[name].function).needs)
        return
    inputs = spec.matched(spec.make(BATCH))
    if options.keys() & {"teacher_temperature", "student_temperature"}:
        alike = {"student_temperature": options["teacher_temperature"], "normalise": False}
        options = {**options, **{key: alike[key] for key in alike.keys() & options.keys()}}
    value, gradients = with_gradient(name, inputs, options)
    if spec.pulls_when_matched:
        assert any(float(gradient.abs().max()) > 1e-3 for gradient in gradients.values())
        return
    assert abs(float(value)) < 1e-12
    assert all(float(gradient.abs().max()) < 1e-12 for gradient in gradients.values())


def finite(value: Tensor, gradients: Inputs) -> bool:
    return bool(torch.isfinite(value)) and all(bool(g.isfinite().all()) for g in gradients.values())


@every_loss
def test_degenerate_rows_have_finite_gradients(name: str, options: dict[str, Any]) -> None:
    for what in ("identical", "zero", "one zero", "nearly identical", "denormal"):
        inputs = changed(SPECS[name].make(BATCH), torch.float32)
        for key, x in inputs.items():
            if x.is_floating_point() and per_sample(key):
                noise = 1e-6 * torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
                if what == "one zero":
                    x[2] = 0
                else:
                    x[:] = {
                        "identical": x[:1].clone(),
                        "zero": 0 * x,
                        "nearly identical": x[:1] + noise,
                        "denormal": x.sign() * 1e-42,  # 1 / 1e-42 is no number of float32
                    }[what]
        assert finite(*with_gradient(name, inputs, options)), what


@every_loss
def test_one_class_and_a_batch_of_one(name: str, options: dict[str, Any]) -> None:
    for batch, one_class in ((1, False), (1, True), (2, True), (BATCH, True)):
        inputs = SPECS[name].make(batch)
        for key in inputs.keys() & {"labels", "way"} if one_class else ():
            inputs[key] = torch.zeros_like(inputs[key])
        value, gradients = with_gradient(name, inputs, options)
        expected = SPECS[name].reference(**inputs, **options)
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
        assert finite(value, gradients), (batch, one_class)


@every_loss
def test_extreme_values_stay_finite(name: str, options: dict[str, Any]) -> None:
    for side, scale in itertools.product(("student_", "teacher_", ""), (1e-15, 1e4, 1e15)):
        too_large = options in SPECS[name].grows and scale == 1e15  # float32 ends at 3e38
        if too_large and side:
            continue
        inputs = changed(SPECS[name].make(BATCH), torch.float32)
        for key, x in inputs.items():
            if x.is_floating_point() and per_sample(key) and key.startswith(side):
                x *= scale
        value, gradients = with_gradient(name, inputs, options)
        assert finite(value, gradients) != too_large, (side, scale)


@every_loss
def test_half_precision_inputs_are_computed_in_float32(name: str, options: dict[str, Any]) -> None:
    rounded = changed(SPECS[name].make(BATCH), torch.bfloat16)
    value, gradients = with_gradient(name, rounded, options)
    expected, expected_gradients = with_gradient(name, changed(rounded, torch.float32), options)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
    for key, gradient in gradients.items():
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient, expected_gradients[key].bfloat16())


@every_loss
def test_autocast_changes_nothing(name: str, options: dict[str, Any]) -> None:
    inputs = changed(SPECS[name].make(BATCH), torch.float32)
    value, gradients = with_gradient(name, inputs, options)
    leaves = {key: x.clone().requires_grad_() for key, x in inputs.items() if is_student(key)}
    with torch.autocast("cpu", torch.bfloat16):
        cast_value = evaluate(name, {**inputs, **leaves}, options)
    cast_gradients = torch.autograd.grad(cast_value, list(leaves.values()))
    torch.testing.assert_close(cast_value.detach(), value)
    torch.testing.assert_close(dict(zip(leaves, cast_gradients, strict=True)), gradients)


@every_loss
def test_bf16_features_of_any_scale_under_autocast(name: str, options: dict[str, Any]) -> None:
    for scale in (1.0, 10.0, 100.0):
        inputs = {
            key: scale * x if x.is_floating_point() and per_sample(key) and key != "labels" else x
            for key, x in SPECS[name].make(BATCH).items()
        }
        rounded = changed(inputs, torch.bfloat16)
        expected, _ = with_gradient(name, changed(rounded, torch.float32), options)
        leaves = {key: x.clone().requires_grad_() for key, x in rounded.items() if is_student(key)}
        with torch.autocast("cpu", torch.bfloat16):
            value = evaluate(name, {**rounded, **leaves}, options)
        gradients = torch.autograd.grad(value, list(leaves.values()))
        assert finite(value, dict(zip(leaves, gradients, strict=True))), scale
        torch.testing.assert_close(value.detach(), expected, rtol=1e-2, atol=0)


def beside_the_student(name: str) -> list[str]:
    """What a loss reads a row of for each of the student's."""
    inputs = SPECS[name].make(BATCH) if name in SPECS else {}
    return [
        key
        for key in inputs
        if per_sample(key) and key.startswith(("teacher", "peer", "labels", "way", "support"))
    ]


@pytest.mark.parametrize("name", [name for name in LOSSES if beside_the_student(name)])
def test_inputs_of_different_batch_sizes_are_refused(name: str) -> None:
    inputs = SPECS[name].make(BATCH)
    for key in beside_the_student(name):
        with refused("other-batch-sizes"):
            evaluate(name, {**inputs, key: inputs[key][1:]}, SPECS[name].options[0])


@pytest.mark.parametrize("name", [name for name in LOSSES if {"student_logits", "labels"} <= {*READS[name]}])
def test_labels_that_are_no_column_are_refused(name: str) -> None:
    inputs = {**SPECS[name].make(BATCH), "labels": torch.arange(BATCH)}
    with refused("labels-out-of-range"):
        evaluate(name, inputs, SPECS[name].options[0])


@every_loss
def test_non_finite_inputs_show(name: str, options: dict[str, Any]) -> None:
    for key, x in SPECS[name].make(BATCH).items():
        if x.is_floating_point() and key != "labels":  # a distribution over classes, no feature
            inputs = SPECS[name].make(BATCH)
            first = inputs[key][0] if per_sample(key) else inputs[key]
            first.view(-1)[SPECS[name].read_entry] = torch.nan
            assert evaluate(name, inputs, options).isnan(), f"NaN in {key} is hidden"


@pytest.mark.parametrize(("name", "options"), defaults_first(list(cases())))
def test_one_graph_under_compile(name: str, options: dict[str, Any]) -> None:
    torch.compiler.reset()
    inputs = changed(SPECS[name].make(BATCH), torch.float32)
    mask = torch.arange(BATCH) > 1
    expected, expected_gradients = with_gradient(name, inputs, options, mask=mask)
    students = [key for key in inputs if is_student(key)]
    leaves = {key: inputs[key].clone().requires_grad_() for key in students}
    compiled = torch.compile(partial(evaluate, name, options=options), backend="eager", fullgraph=True)
    value = compiled({**inputs, **leaves}, mask=mask)
    gradients = torch.autograd.grad(value, list(leaves.values()))
    torch.testing.assert_close(value.detach(), expected)
    torch.testing.assert_close(dict(zip(students, gradients, strict=True)), expected_gradients)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.counted])
def test_the_counted_form_agrees(name: str) -> None:
    loss, inputs = LOSSES[name], SPECS[name].make(BATCH)
    assert loss.counted is not None
    value, count = loss.counted(*(inputs[need] for need in loss.needs))
    assert value == evaluate(name, inputs, {})
    assert count.dtype == torch.int64
    assert count.dim() == 0
