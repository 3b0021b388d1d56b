"""mlkd and ctkd: the authors' numbers, what a temperature learns, and when."""

from __future__ import annotations

import pytest
import torch

from gkd.losses import CTKDLoss, kd_loss, mlkd_loss
from gkd.losses.logit_levels import at_most_median
from tests.refusals import refused

from .waves import wave


def sides() -> tuple[torch.Tensor, torch.Tensor]:
    return 2 * wave(7, 5, phase=0.2), 2 * wave(7, 5, phase=0.9)


def test_mlkd_is_the_authors_of_one_view() -> None:
    """The numbers are those of Jin-Ying/Multi-Level-Logit-Distillation@5ee473f, KD_ours with weight 1, in float64."""
    student, teacher = sides()
    weak = mlkd_loss(student, teacher, unsure="share")
    assert float(weak) == pytest.approx(4.917426047726227, rel=1e-12)
    strong = mlkd_loss(student, teacher, batches=0.0, classes=0.0)
    assert float(strong) == pytest.approx(8.47083235011786, rel=1e-12)
    within = mlkd_loss(student, teacher, instances=0.0, batches=0.0, unsure="share")
    assert float(within) == pytest.approx(0.06902021117391613, rel=1e-12)
    between = mlkd_loss(student, teacher, instances=0.0, classes=0.0, unsure="share")
    assert float(between) == pytest.approx(0.007930207913533365, rel=1e-12)


def test_mlkd_without_products_is_kd_at_each_temperature() -> None:
    student, teacher = sides()
    value = mlkd_loss(student, teacher, temperature=3.0, spread=1, batches=0.0, classes=0.0)
    expected = sum(kd_loss(student, teacher, temperature=heat) for heat in (2.0, 3.0, 4.0))
    torch.testing.assert_close(value, expected)


def test_the_median_is_of_the_selected_rows() -> None:
    values, chosen = torch.tensor([9.0, 1.0, 2.0, 3.0, 9.0]), torch.tensor([False, True, True, True, False])
    assert (at_most_median(values, chosen) & chosen).tolist() == [False, True, True, False, False]
    assert at_most_median(values[:4], None).tolist() == [False, True, True, False]


def test_mlkd_refuses_temperatures_down_to_zero() -> None:
    student, teacher = sides()
    with refused("option-out-of-range"):
        mlkd_loss(student, teacher, temperature=2.0)


def test_ctkd_is_the_authors() -> None:
    """The numbers are those of zhengli97/CTKD@7d52522, Global_T and DistillKL at epoch 4 of 10, in float64."""
    student, teacher = sides()
    module = CTKDLoss().double()
    loss = module(student, teacher, torch.tensor(4.0, dtype=torch.float64))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1.7562421211262695, rel=1e-12)
    assert module.theta.grad is not None
    assert float(module.theta.grad) == pytest.approx(-0.0006514197560733804, rel=1e-9)


@pytest.mark.parametrize(
    ("curriculum", "expected"), [("cosine", [0.0, 0.5, 1.0, 1.0]), ("linear", [0.0, 0.5, 1.0, 1.0])]
)
def test_the_reversal_grows_over_its_epochs(curriculum: str, expected: list[float]) -> None:
    module = CTKDLoss(curriculum=curriculum, epochs=8.0)  # type: ignore[arg-type]
    found = [float(module.reversal(torch.tensor(epoch))) for epoch in (0.0, 4.0, 8.0, 240.0)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert float(module.reversal(torch.tensor(2.0))) == pytest.approx(
        {"cosine": 0.1464466, "linear": 0.25}[curriculum]
    )


@pytest.mark.parametrize("temperature", ["global", "instance"])
def test_a_step_raises_the_loss_by_the_temperature_alone(temperature: str) -> None:
    """The student stays: what descends the reversed gradient ascends the loss."""
    torch.manual_seed(0)
    student, teacher = sides()
    module = CTKDLoss(temperature=temperature).double()  # type: ignore[arg-type]
    optimiser, late = torch.optim.SGD(module.parameters(), lr=1.0), torch.tensor(20.0)
    values = []
    for _ in range(5):
        loss = module(student, teacher, late)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_each_sample_has_its_own_temperature_and_the_student_no_reversed_gradient() -> None:
    torch.manual_seed(0)
    student, teacher = sides()
    module = CTKDLoss(temperature="instance").double()
    heats = module.temperature(student, teacher)
    assert heats.shape == (7,)
    assert len(heats.unique()) == 7
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(module(student, teacher, torch.tensor(20.0)), student)
    apart = torch.stack(
        [
            kd_loss(student[i : i + 1], teacher[i : i + 1], temperature=float(heat))
            for i, heat in enumerate(heats.detach())
        ]
    )
    torch.testing.assert_close(gradient, torch.autograd.grad(apart.mean(), student)[0])
