"""The contract of the losses that own parameters. It finds them by itself; each needs a row in `module_specs.ROWS`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from gkd.losses import LOSSES, NEEDS, FactorTransferLoss, HintLoss, VIDLoss, factor_transfer_loss
from tests.refusals import refused

from .module_specs import BATCH, ROWS, Row, as_type, build, constructed, make, measured, taken
from .references import random
from .waves import wave

CASES = [
    pytest.param(name, row, id=f"{name}-{number}")
    for name, rows in ROWS.items()
    for number, row in enumerate(rows)
]
every_module = pytest.mark.parametrize(("name", "row"), CASES)


def test_every_loss_that_owns_parameters_has_rows() -> None:
    assert set(ROWS) == {name for name, loss in LOSSES.items() if loss.module}


@every_module
def test_equals_the_reference(name: str, row: Row) -> None:
    module, inputs = build(name, row), make(name, row)
    for _ in range(2):  # the second step reads what the first left behind
        expected_module = copy.deepcopy(module)
        (student,) = (key for key in inputs if key.startswith("student"))
        leaf = inputs[student].clone().requires_grad_()
        expected = row.reference(expected_module, **{**inputs, student: leaf})
        parameters = [leaf, *(p for p in expected_module.parameters() if p.requires_grad)]
        gradients = torch.autograd.grad(expected, parameters, allow_unused=True)
        value, own, after = measured(module, inputs)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-12)
        for got, want in zip(own, gradients, strict=True):
            assert (got is None) == (want is None)
            if got is not None and want is not None:
                torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-11)
        single, _, _ = measured(copy.deepcopy(module).float(), as_type(inputs, torch.float32))
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), expected.detach(), rtol=1e-4, atol=0)
        module = after


@every_module
def test_gradcheck(name: str, row: Row) -> None:
    inputs = make(name, row, 4)
    _, _, module = measured(build(name, row), inputs)  # so that what the first batch decides is decided
    (student,) = (key for key in inputs if key.startswith("student"))

    def of(values: Tensor) -> Tensor:
        value: Tensor = copy.deepcopy(module)(**{**inputs, student: values})
        return value

    assert torch.autograd.gradcheck(of, inputs[student].clone().requires_grad_())


@every_module
def test_trains_its_parameters_and_never_the_teacher(name: str, row: Row) -> None:
    module, inputs = build(name, row), make(name, row)
    inputs = {key: x.requires_grad_() if x.is_floating_point() else x for key, x in inputs.items()}
    module(**inputs).backward()
    for key, x in inputs.items():
        assert (x.grad is not None) == key.startswith("student")
        if x.grad is not None:
            assert bool(x.grad.any()) == row.reaches_student
    trained = [p for p in module.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and p.grad.any() for p in trained)
    if name == "ft":
        parts = ("encoder", "decoder") if row.reaches_student else ("translator",)
        assert not any(p.requires_grad for part in parts for p in getattr(module, part).parameters())


@every_module
def test_mask_equals_the_subset_whatever_the_other_rows_hold(name: str, row: Row) -> None:
    module, inputs = build(name, row), make(name, row, BATCH + 3)
    mask = torch.ones(BATCH + 3, dtype=torch.bool)
    mask[[0, 3, 8]] = False
    chosen = taken(inputs, mask)
    value, gradients, after = measured(module, chosen)
    garbage = {
        key: torch.where(mask.view(-1, *[1] * (x.dim() - 1)), x, torch.nan)
        if x.is_floating_point() and NEEDS[key].per_sample
        else x
        for key, x in inputs.items()
    }
    for filled in (inputs, garbage):
        masked_value, masked_gradients, masked_after = measured(module, filled, mask=mask)
        torch.testing.assert_close(masked_value, value)
        student = masked_gradients[0]
        assert student is not None
        assert not student[~mask].any()
        torch.testing.assert_close([student[mask], *masked_gradients[1:]], gradients)
        torch.testing.assert_close(masked_after.state_dict(), after.state_dict())


@every_module
@pytest.mark.parametrize("how", ["mask", "no rows"])
def test_empty_selection_is_a_zero_that_changes_nothing(name: str, row: Row, how: str) -> None:
    module, inputs = build(name, row), make(name, row, BATCH if how == "mask" else 0)
    more = {"mask": torch.zeros(BATCH, dtype=torch.bool)} if how == "mask" else {}
    value, gradients, after = measured(module, inputs, **more)
    assert value == 0
    assert all(gradient is None or not gradient.any() for gradient in gradients)
    torch.testing.assert_close(after.state_dict(), module.state_dict(), rtol=0, atol=0)


@every_module
def test_order_of_the_batch(name: str, row: Row) -> None:
    module, inputs = build(name, row), make(name, row)
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(0))
    value, _, _ = measured(module, inputs)
    shuffled, _, _ = measured(module, taken(inputs, order))
    if row.order_matters:
        assert abs(float(shuffled - value)) > 1e-3
    else:
        torch.testing.assert_close(shuffled, value)


@every_module
@pytest.mark.parametrize("what", ["identical", "zero", "one", "extreme", "tiny"])
def test_degenerate_batches_stay_finite(name: str, row: Row, what: str) -> None:
    module, inputs = build(name, row).float(), as_type(make(name, row), torch.float32)
    for key, x in inputs.items():
        if x.is_floating_point():
            changed = {"identical": x[:1].expand_as(x), "zero": 0 * x, "extreme": 1e15 * x, "tiny": 1e-15 * x}
            inputs[key] = changed.get(what, x)
    if what == "one":
        inputs = taken(inputs, torch.arange(1))
    value, gradients, after = measured(module, inputs)
    assert torch.isfinite(value)
    assert all(gradient is None or torch.isfinite(gradient).all() for gradient in gradients)
    assert all(torch.isfinite(x).all() for x in after.state_dict().values())


@every_module
def test_half_precision_and_autocast_are_computed_in_float32(name: str, row: Row) -> None:
    module = build(name, row).float()
    rounded = as_type(make(name, row), torch.bfloat16)
    expected, expected_gradients, _ = measured(module, as_type(rounded, torch.float32))
    value, _, _ = measured(module, rounded)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
    cast, gradients, _ = measured(module, as_type(rounded, torch.float32), autocast=True)
    torch.testing.assert_close(cast, expected)
    torch.testing.assert_close(gradients, expected_gradients)


@every_module
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_bf16_features_of_any_scale_under_autocast(name: str, row: Row, scale: float) -> None:
    module = build(name, row).float()
    inputs = {key: scale * x if x.is_floating_point() else x for key, x in make(name, row).items()}
    rounded = as_type(inputs, torch.bfloat16)
    expected, _, _ = measured(module, as_type(rounded, torch.float32))
    value, gradients, _ = measured(module, rounded, autocast=True)
    torch.testing.assert_close(value, expected, rtol=1e-2, atol=0)
    assert torch.isfinite(value)
    assert all(gradient is None or torch.isfinite(gradient).all() for gradient in gradients)


@every_module
def test_inputs_of_different_batch_sizes_are_refused(name: str, row: Row) -> None:
    inputs = make(name, row)
    for key in LOSSES[name].needs:
        if not key.startswith("student") and NEEDS[key].per_sample:
            with refused("other-batch-sizes"):
                build(name, row)(**{**inputs, key: inputs[key][1:]})


@every_module
def test_non_finite_inputs_show(name: str, row: Row) -> None:
    for key, x in make(name, row).items():
        if x.is_floating_point() and (row.reaches_student or key.startswith("teacher")):
            inputs = make(name, row)
            inputs[key].view(-1)[0] = torch.nan
            assert measured(build(name, row), inputs)[0].isnan()


@pytest.mark.full
@every_module
def test_one_graph_under_compile(name: str, row: Row) -> None:
    torch.compiler.reset()
    module, inputs = build(name, row).float(), as_type(make(name, row), torch.float32)
    mask = torch.arange(BATCH) > 1
    expected, expected_gradients, after = measured(module, inputs, mask=mask)
    (student,) = (key for key in inputs if key.startswith("student"))
    leaf = inputs[student].clone().requires_grad_()
    value = torch.compile(module, backend="eager", fullgraph=True)(**{**inputs, student: leaf}, mask=mask)
    parameters = [leaf, *(p for p in module.parameters() if p.requires_grad)]
    gradients = list(torch.autograd.grad(value, parameters, allow_unused=True))
    torch.testing.assert_close(value.detach(), expected)
    torch.testing.assert_close(gradients, expected_gradients)
    torch.testing.assert_close(module.state_dict(), after.state_dict())


@every_module
def test_its_state_is_all_that_a_resumed_run_needs(name: str, row: Row) -> None:
    inputs = make(name, row)
    _, _, module = measured(build(name, row), inputs)
    torch.manual_seed(7)
    other = constructed(name, row).double()
    other.load_state_dict(module.state_dict())
    value, gradients, after = measured(module, inputs)
    resumed, resumed_gradients, resumed_after = measured(other, inputs)
    torch.testing.assert_close(resumed, value, rtol=0, atol=0)
    torch.testing.assert_close(resumed_gradients, gradients, rtol=0, atol=0)
    torch.testing.assert_close(resumed_after.state_dict(), after.state_dict(), rtol=0, atol=0)


@every_module
def test_eval_mode_changes_no_state(name: str, row: Row) -> None:
    module = build(name, row).eval()
    _, _, after = measured(module, make(name, row))
    torch.testing.assert_close(after.state_dict(), module.state_dict(), rtol=0, atol=0)


# --- each module's own -------------------------------------------------------------------------------------


def test_a_variance_starts_where_it_is_told_and_is_trained() -> None:
    module = VIDLoss((3, 2, 2), (5, 2, 2), initial_variance=2.5)
    torch.testing.assert_close(module.variance, torch.full((5,), 2.5))
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    module(random(1, 4, 3, 2, 2).float(), random(2, 4, 5, 2, 2).float()).backward()
    optimiser.step()
    assert (module.variance != 2.5).all()
    torch.testing.assert_close(
        VIDLoss((3, 2, 2), (1, 2, 2), initial_variance=1e3).variance, torch.tensor([1e3])
    )
    with refused("option-out-of-range"):
        VIDLoss((3, 2, 2), (5, 2, 2), initial_variance=0.0)


@pytest.mark.parametrize(
    ("student", "teacher", "code"),
    [
        ((4,), (3, 2, 2), "other-kinds-of-output"),
        ((3, 4, 2), (3, 2, 4), "no-convolution-fits"),
    ],
)
def test_shapes_that_no_regressor_joins_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], code: str
) -> None:
    with refused(code):
        HintLoss(student, teacher)


@pytest.mark.parametrize("name", ["vid", "ft", "ickd"])
def test_an_embedding_is_refused_where_a_map_is_needed(name: str) -> None:
    module = LOSSES[name].module
    assert module is not None
    with refused("not-a-map"):
        module((3, 2, 2), (6,))


def test_a_paraphraser_without_channels_is_refused() -> None:
    with refused("option-out-of-range"):
        FactorTransferLoss((3, 2, 2), (6, 2, 2), rate=0.1)


# The numbers below are those of HobbitLong/RepDistiller@b84f547, when run in float64.


def test_factor_transfer_is_the_benchmarks() -> None:
    loss = factor_transfer_loss(wave(3, 3, 2, 2, phase=0.2), wave(3, 4, 4, 4, phase=0.9))
    assert float(loss) == pytest.approx(0.12571046556523927, rel=1e-12)


def test_variational_information_is_the_benchmarks() -> None:
    module = VIDLoss((3, 2, 2), (4, 4, 4)).double()
    with torch.no_grad():
        for number, layer in enumerate((0, 2, 4)):
            weight = module.regressor[layer].weight
            weight.copy_(wave(*weight.shape, phase=0.3 + 0.2 * number))
        module.raw_variance.copy_(wave(4, phase=0.7))
    loss = module(wave(3, 3, 2, 2, phase=0.2), wave(3, 4, 4, 4, phase=0.9))
    assert float(loss.detach()) == pytest.approx(0.15231418645911396, rel=1e-12)
