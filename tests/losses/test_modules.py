"""The contract of the losses that own parameters. It finds them by itself; each needs a row in ROWS."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd.errors import UserError
from gkd.losses import (
    LOSSES,
    CCNeighbourLoss,
    CRDLoss,
    CRDQueueLoss,
    FactorTransferLoss,
    HintLoss,
    ICKDLoss,
    VIDLoss,
    factor_transfer_loss,
    nce_loss,
)

from .references import Inputs, random
from .references.affinity import cc_neighbour_reference
from .references.maps import ickd_reference, pooled
from .references.modules import factor_transfer_reference, hint_reference, vid_reference
from .waves import wave

BATCH = 6
NUM_SAMPLES = 11
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 1])
Reference = Callable[..., Tensor]


@dataclass(frozen=True)
class Row:
    """What the contract knows about a module.

    Attributes:
        student, teacher: shapes of one sample.
        reference: the value from the module's parameters, by other means than its forward.
        options: hyper-parameters to test.
        order_matters: the exception that the value depends on the order of the batch.
        reaches_student: whether the student gets a gradient; a phase that trains the teacher's side alone does not.
    """

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    reference: Reference
    options: dict[str, Any]
    order_matters: bool = False
    reaches_student: bool = True


def normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """BatchNorm in training mode, by its definition."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    scale, shift = norm.weight.view(1, -1, 1, 1), norm.bias.view(1, -1, 1, 1)
    return (x - mean) / (variance + norm.eps).sqrt() * scale + shift


def hint(module: HintLoss, student: Tensor, teacher: Tensor) -> Tensor:
    resize = module.regressor.resize
    assert isinstance(resize, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    if isinstance(resize, nn.Linear):
        return hint_reference(student @ resize.weight.T + resize.bias, teacher)
    if isinstance(resize, nn.ConvTranspose2d):
        moved = F.conv_transpose2d(student, resize.weight, resize.bias, resize.stride, resize.padding)
    else:
        moved = F.conv2d(student, resize.weight, resize.bias, resize.stride, resize.padding)
    assert module.regressor.norm is not None
    moved = normalised(module.regressor.norm, moved)
    return hint_reference(moved.clamp_min(0) if module.regressor.relu else moved, teacher)


def variational(module: VIDLoss, student_map: Tensor, teacher_map: Tensor) -> Tensor:
    x = torch.stack([pooled(row, 2, 2) for row in student_map])
    for number in (0, 2, 4):
        weight = module.regressor[number].weight[:, :, 0, 0]
        x = torch.einsum("oc,bchw->bohw", weight, x)
        x = x.clamp_min(0) if number < 4 else x
    variance = (1 + module.raw_variance.exp()).log() + 1e-5
    return vid_reference(x, torch.stack([pooled(row, 2, 2) for row in teacher_map]), variance)


def coded(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, layer.weight, layer.bias, padding=1)
        elif isinstance(layer, nn.ConvTranspose2d):
            x = F.conv_transpose2d(x, layer.weight, layer.bias, padding=1)
        elif isinstance(layer, nn.BatchNorm2d):
            x = normalised(layer, x)
        else:
            x = torch.where(x > 0, x, 0.1 * x)
    return x


def factor_transfer(module: FactorTransferLoss, student_map: Tensor, teacher_map: Tensor) -> Tensor:
    factor = coded(module.encoder, teacher_map)
    if module.phase == "paraphraser":
        return (coded(module.decoder, factor) - teacher_map).square().mean() + 0 * student_map.sum()
    return factor_transfer_reference(coded(module.translator, student_map), factor, of=module.of)


def channels(module: ICKDLoss, student_map: Tensor, teacher_map: Tensor) -> Tensor:
    convolution, norm = module.projection
    assert isinstance(norm, nn.BatchNorm2d)
    moved = torch.einsum("oc,bchw->bohw", convolution.weight[:, :, 0, 0], student_map)
    return ickd_reference(normalised(norm, moved), teacher_map)


def neighbours(module: CCNeighbourLoss, student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    student, teacher = module.student_projection, module.teacher_projection
    return cc_neighbour_reference(
        student_embedding @ student.weight.T + student.bias,
        teacher_embedding @ teacher.weight.T + teacher.bias,
    )


def projected(module: CRDLoss | CRDQueueLoss, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    sides = []
    for layer, rows in ((module.projections.student, student), (module.projections.teacher, teacher)):
        rows = rows @ layer.weight.T + layer.bias
        sides.append(rows / rows.square().sum(1, keepdim=True).sqrt())
    return sides[0], sides[1]


def banks(
    module: CRDLoss, student_embedding: Tensor, teacher_embedding: Tensor, index: Tensor, drawn: Tensor
) -> Tensor:
    """The authors' form, with its exponentials and Z: the mean of the first batch times N."""
    student, teacher = projected(module, student_embedding, teacher_embedding)
    noise = drawn.shape[1] / NUM_SAMPLES
    total = torch.zeros(())
    for number, (rows, bank) in enumerate(((student, module.teacher_bank), (teacher, module.student_bank))):
        chances = []
        for row, own, others in zip(rows, index, drawn, strict=True):
            entries = bank[torch.cat([own.view(1), others])]
            chances.append((entries @ row / module.temperature).exp())
        z = torch.stack(chances).mean().detach() * NUM_SAMPLES
        if module.ready:
            z = module.log_normaliser[number].exp()
        for chance in chances:
            p = chance / z
            total = total - (p[0] / (p[0] + noise)).log() - (noise / (p[1:] + noise)).log().sum()
    return total / len(student)


def queue(
    module: CRDQueueLoss, student_embedding: Tensor, teacher_embedding: Tensor, labels: Tensor
) -> Tensor:
    student, teacher = projected(module, student_embedding, teacher_embedding)
    total = torch.zeros(())
    for rows, others, past in (
        (student, teacher, module.teacher_queue),
        (teacher, student, module.student_queue),
    ):
        for i, row in enumerate(rows):
            scores = [row @ others[j] for j in range(len(rows)) if labels[j] != labels[i]]
            for entry, label in zip(past, module.queue_labels, strict=True):
                if label >= 0 and label != labels[i]:
                    scores.append(row @ entry)
            chances = [(score / module.temperature).exp() for score in (row @ others[i], *scores)]
            total = total - (chances[0] / sum(chances)).log()
    return total / len(student)


ROWS: dict[str, list[Row]] = {
    "fitnet": [
        Row((3, 4, 4), (5, 2, 2), hint, {}),
        Row((3, 2, 2), (5, 4, 4), hint, {"relu": False}),
        Row((3, 4, 4), (5, 3, 2), hint, {}),
        Row((3, 2, 2), (5, 2, 2), hint, {}),
        Row((4,), (6,), hint, {}),
    ],
    "vid": [
        Row((3, 4, 4), (5, 2, 2), variational, {}),
        Row((3, 2, 2), (5, 4, 4), variational, {"initial_variance": 1.0}),
    ],
    "ft": [
        Row((3, 4, 4), (6, 4, 4), factor_transfer, {}),
        Row((3, 4, 4), (6, 2, 2), factor_transfer, {"of": "factor", "rate": 0.7}),
        Row((3, 4, 4), (6, 2, 2), factor_transfer, {"phase": "paraphraser"}, reaches_student=False),
    ],
    "ickd": [Row((3, 3, 3), (5, 2, 2), channels, {})],
    "cc_neighbour": [Row((4,), (6,), neighbours, {"dim": 3}, order_matters=True)],
    "crd": [
        Row((4,), (6,), banks, {"dim": 5, "negatives": 7}),
        Row((4,), (6,), banks, {"dim": 5, "negatives": 7, "temperature": 0.5, "momentum": 0.9}),
        Row((4,), (6,), banks, {"dim": 5, "negatives": 7, "negatives_from": "other-samples"}),
    ],
    "crd_queue": [
        Row((4,), (6,), queue, {"dim": 5, "queue": 8}),
        Row((4,), (6,), queue, {"dim": 5, "queue": 0, "temperature": 0.5}),
    ],
}
CASES = [
    pytest.param(name, row, id=f"{name}-{number}")
    for name, rows in ROWS.items()
    for number, row in enumerate(rows)
]
every_module = pytest.mark.parametrize(("name", "row"), CASES)


def build(name: str, row: Row, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    module = LOSSES[name].module
    assert module is not None
    more = {"labels": LABELS} if LOSSES[name].takes_labels else {}
    built = module(row.student, row.teacher, **row.options, **options, **more).double()
    for entry in built.parameters():  # biases of 0 and scales of 1 would hide a missing one
        if entry.dim() == 1 and not isinstance(built, VIDLoss):
            nn.init.uniform_(entry, 0.5, 1.5)
    return built


def make(name: str, row: Row, batch: int = BATCH) -> Inputs:
    """Inputs by the names of forward's parameters."""
    inputs: Inputs = {}
    for need in LOSSES[name].needs:
        if need == "labels":
            inputs[need] = torch.arange(batch) % 3
        elif need == "index":
            inputs[need] = torch.arange(batch) + 2
        else:
            shape = row.student if need.startswith("student") else row.teacher
            inputs[need] = random(1 + need.startswith("teacher"), batch, *shape)
    if name == "crd":
        inputs["drawn"] = (inputs["index"][:, None] + 1 + torch.arange(7)) % NUM_SAMPLES
    return inputs


def measured(
    module: nn.Module, inputs: Inputs, *, autocast: bool = False, **more: Any
) -> tuple[Tensor, list[Tensor | None], nn.Module]:
    """The value, its gradients (student's first, then the parameters'), and the module as the step left it."""
    module = copy.deepcopy(module)
    (student,) = (key for key in inputs if key.startswith("student"))
    leaf = inputs[student].detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = module(**{**inputs, student: leaf}, **more)
    parameters = [leaf, *(p for p in module.parameters() if p.requires_grad)]
    return value.detach(), list(torch.autograd.grad(value, parameters, allow_unused=True)), module


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


def as_type(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {key: x.to(dtype) if x.is_floating_point() else x for key, x in inputs.items()}


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
    chosen = {key: x[mask] for key, x in inputs.items()}
    value, gradients, after = measured(module, chosen)
    garbage = {
        key: torch.where(mask.view(-1, *[1] * (x.dim() - 1)), x, torch.nan) if x.is_floating_point() else x
        for key, x in inputs.items()
    }
    for filled in (inputs, garbage):
        masked_value, masked_gradients, masked_after = measured(module, filled, mask=mask)
        torch.testing.assert_close(masked_value, value)
        student = masked_gradients[0]
        assert student is not None
        assert not student[~mask].any()
        torch.testing.assert_close([student[mask], *masked_gradients[1:]], gradients)
        if name != "crd_queue":  # its queue keeps an empty place for each row that did not count
            torch.testing.assert_close(masked_after.state_dict(), after.state_dict())


@every_module
@pytest.mark.parametrize("how", ["mask", "no rows"])
def test_empty_selection_is_a_zero_that_changes_nothing(name: str, row: Row, how: str) -> None:
    module, inputs = build(name, row), make(name, row, BATCH if how == "mask" else 0)
    more = {"mask": torch.zeros(BATCH, dtype=torch.bool)} if how == "mask" else {}
    value, gradients, after = measured(module, inputs, **more)
    assert value == 0
    assert all(gradient is None or not gradient.any() for gradient in gradients)
    if name != "crd_queue":
        torch.testing.assert_close(after.state_dict(), module.state_dict(), rtol=0, atol=0)


@every_module
def test_order_of_the_batch(name: str, row: Row) -> None:
    module, inputs = build(name, row), make(name, row)
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(0))
    value, _, _ = measured(module, inputs)
    shuffled, _, _ = measured(module, {key: x[order] for key, x in inputs.items()})
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
        inputs = {key: x[:1] for key, x in inputs.items()}
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
        if not key.startswith("student"):
            with pytest.raises(
                UserError, match=rf"The student's batch has {BATCH} rows, the .* {BATCH - 1}; give"
            ):
                build(name, row)(**{**inputs, key: inputs[key][1:]})


@every_module
def test_non_finite_inputs_show(name: str, row: Row) -> None:
    for key, x in make(name, row).items():
        if x.is_floating_point() and (row.reaches_student or key.startswith("teacher")):
            inputs = make(name, row)
            inputs[key].view(-1)[0] = torch.nan
            assert measured(build(name, row), inputs)[0].isnan()


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
    other = type(module)(
        row.student,
        row.teacher,
        **row.options,
        **({"labels": LABELS} if LOSSES[name].takes_labels else {}),
    ).double()
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
    with pytest.raises(UserError, match="initial_variance=0"):
        VIDLoss((3, 2, 2), (5, 2, 2), initial_variance=0.0)


def crd(**options: Any) -> CRDLoss:
    torch.manual_seed(0)
    return CRDLoss((4,), (6,), labels=LABELS, **{"dim": 5, "negatives": 7, **options})


def test_negatives_are_of_other_classes_and_reach_all_of_them() -> None:
    drawn = crd(negatives=500).draw(torch.arange(NUM_SAMPLES))
    for sample, numbers in enumerate(drawn):
        allowed = {i for i in range(NUM_SAMPLES) if LABELS[i] != LABELS[sample]}
        assert set(numbers.tolist()) == allowed
    others = crd(negatives=500, negatives_from="other-samples").draw(torch.arange(NUM_SAMPLES))
    for sample, numbers in enumerate(others):
        assert set(numbers.tolist()) == set(range(NUM_SAMPLES)) - {sample}


def test_the_dense_product_equals_gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = as_type(make("crd", ROWS["crd"][0]), torch.float32)
    module = crd()
    assert module.dense
    dense = measured(module, inputs)
    monkeypatch.setattr("gkd.losses.contrastive.DENSE_UP_TO", 0)
    assert not module.dense
    gathered = measured(module, inputs)
    torch.testing.assert_close(gathered[:2], dense[:2])


def test_banks_move_by_momentum_and_stay_on_the_sphere() -> None:
    inputs = as_type(make("crd", ROWS["crd"][0]), torch.float32)
    module = crd(momentum=0.25)
    student, _ = projected(module, inputs["student_embedding"], inputs["teacher_embedding"])
    _, _, after = measured(module, inputs)
    index = inputs["index"]
    moved = F.normalize(0.25 * module.student_bank[index] + 0.75 * student)
    torch.testing.assert_close(after.student_bank[index], moved)
    untouched = [i for i in range(NUM_SAMPLES) if i not in index]
    torch.testing.assert_close(after.student_bank[untouched], module.student_bank[untouched])


def test_a_bank_of_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="no negative for a sample among 4 of one class"):
        CRDLoss((4,), (6,), labels=torch.zeros(4, dtype=torch.int64))


def test_a_queue_forgets_the_oldest() -> None:
    module = CRDQueueLoss((4,), (6,), dim=5, queue=8).double()
    for step in range(3):
        inputs = make("crd_queue", ROWS["crd_queue"][0])
        module(**{**inputs, "labels": torch.full((BATCH,), step)})
    assert module.queue_labels.tolist() == [2, 2, 1, 1, 2, 2, 2, 2]
    torch.testing.assert_close(module.student_queue.square().sum(1), torch.ones(8).double())


@pytest.mark.parametrize(
    ("student", "teacher", "text"),
    [
        ((4,), (3, 2, 2), r"\[4\] and the teacher's \[3, 2, 2\] are not both maps"),
        ((3, 4, 2), (3, 2, 4), "4x2 to one of 2x4: one side grows"),
    ],
)
def test_shapes_that_no_regressor_joins_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], text: str
) -> None:
    with pytest.raises(UserError, match=text):
        HintLoss(student, teacher)


@pytest.mark.parametrize("name", ["vid", "ft", "ickd"])
def test_an_embedding_is_refused_where_a_map_is_needed(name: str) -> None:
    module = LOSSES[name].module
    assert module is not None
    with pytest.raises(UserError, match=rf"teacher's spot for '{name}' gives \[6\] a sample"):
        module((3, 2, 2), (6,))


def test_a_paraphraser_without_channels_is_refused() -> None:
    with pytest.raises(UserError, match=r"rate=0.1 leaves no channel of the teacher's 6"):
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


def test_the_contrastive_loss_is_the_benchmarks_without_its_epsilon() -> None:
    loss = nce_loss(wave(4, 6, phase=0.4), torch.tensor(0.7, dtype=torch.float64), num_samples=20)
    assert float(loss) == pytest.approx(6.404991668997372, rel=1e-12)
    assert float(loss) == pytest.approx(6.4049924309894175, rel=1e-6)  # with it
