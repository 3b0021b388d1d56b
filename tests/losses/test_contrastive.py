"""Contrastive losses: negatives, banks, queues, and the benchmark's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from gkd.losses import CRDLoss, CRDQueueLoss, nce_loss
from tests.refusals import refused

from .module_specs import BATCH, LABELS, NUM_SAMPLES, ROWS, as_type, make, measured, projected
from .waves import wave


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


@pytest.mark.parametrize("dense", [True, False])
def test_a_row_that_does_not_count_never_undoes_one_that_does(
    monkeypatch: pytest.MonkeyPatch, dense: bool
) -> None:
    """A batch padded with a repeated sample writes what the batch without it writes."""
    monkeypatch.setattr("gkd.losses.contrastive.DENSE_UP_TO", 16 if dense else 0)
    inputs = as_type(make("crd", ROWS["crd"][0]), torch.float32)
    padded = {key: torch.cat([x, x[:1] if key == "index" else x[1:2]]) for key, x in inputs.items()}
    mask = torch.arange(BATCH + 1) < BATCH
    _, _, alone = measured(crd(), inputs)
    _, _, after = measured(crd(), padded, mask=mask)
    torch.testing.assert_close(after.state_dict(), alone.state_dict())


def test_a_bank_of_one_class_is_refused() -> None:
    with refused("no-negatives"):
        CRDLoss((4,), (6,), labels=torch.zeros(4, dtype=torch.int64))


def test_an_index_beyond_the_banks_is_refused() -> None:
    inputs = as_type(make("crd", ROWS["crd"][0]), torch.float32)
    with refused("index-out-of-range"):
        crd()(**{**inputs, "index": inputs["index"] + 5})


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"dim": 0}, "option-out-of-range"),
        ({"negatives": -3}, "option-out-of-range"),
        ({"momentum": 5.0}, "option-out-of-range"),
        ({"temperature": 0.0}, "option-out-of-range"),
        ({"negatives_from": "nowhere"}, "unknown-option-value"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], code: str) -> None:
    with refused(code):
        crd(**options)


def test_a_queue_forgets_the_oldest() -> None:
    module = CRDQueueLoss((4,), (6,), dim=5, queue=8).double()
    for step in range(3):
        inputs = make("crd_queue", ROWS["crd_queue"][0])
        module(**{**inputs, "labels": torch.full((BATCH,), step)})
    assert module.queue_labels.tolist() == [2, 2, 1, 1, 2, 2, 2, 2]
    torch.testing.assert_close(module.student_queue.square().sum(1), torch.ones(8).double())


def test_the_contrastive_loss_is_the_benchmarks_without_its_epsilon() -> None:
    loss = nce_loss(wave(4, 6, phase=0.4), torch.tensor(0.7, dtype=torch.float64), num_samples=20)
    assert float(loss) == pytest.approx(6.404991668997372, rel=1e-12)
    assert float(loss) == pytest.approx(6.4049924309894175, rel=1e-6)  # with it


def test_noise_is_drawn_from_at_least_one_sample() -> None:
    with refused("option-out-of-range"):
        nce_loss(torch.zeros(2, 3), torch.tensor(0.0), num_samples=0)
