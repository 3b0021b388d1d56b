"""What a loss reads: one table of facts, one of functions, and a third party's entry in both."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gkd.core.batch import Batch
from gkd.core.errors import UserError
from gkd.core.labels import LabelSpace
from gkd.distill.distiller import Distiller
from gkd.distill.inputs import PROVIDERS, Reading, add_provider
from gkd.distill.teacher import Teacher
from gkd.losses import LOSSES, NEEDS, Loss, Mask, Need
from gkd.methods.terms import Term


def test_facts_and_functions_are_of_the_same_things() -> None:
    assert PROVIDERS.keys() == NEEDS.keys()
    for name, need in NEEDS.items():
        assert need.from_teacher == (name.startswith("teacher") or name == "centres")
        assert need.after <= need.at_spot
        assert need.about


def test_every_need_is_read_by_a_loss() -> None:
    assert {need for loss in LOSSES.values() for need in loss.needs} == NEEDS.keys()


def dimness(student_logits: Tensor, brightness: Tensor, *, mask: Mask = None) -> Tensor:
    """Large logits of bright images."""
    return (student_logits.mean(1) * brightness).mean()


def brightness(reading: Reading) -> Tensor:
    return reading.batch.images.flatten(1).mean(1)


def test_a_third_party_adds_what_its_loss_reads(
    make_teacher: Callable[..., Teacher], make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gkd.distill.inputs.PROVIDERS", dict(PROVIDERS))
    monkeypatch.setitem(LOSSES, "dimness", Loss(dimness, "ours"))
    try:
        add_provider("brightness", Need("mean pixel of each image [B]"), brightness)
        add_provider(
            "brightness", Need("mean pixel of each image [B]"), brightness
        )  # a module may be read twice
        with pytest.raises(UserError, match="Losses read 'labels' already"):
            add_provider("labels", Need("others"), brightness)
        student, batch = make_teacher("abc").network, make_batch(3)
        loss = Distiller(student, None, {"dimness": Term(loss="dimness")})(batch)["loss"]
        torch.testing.assert_close(loss, dimness(student(batch.images), batch.images.flatten(1).mean(1)))
    finally:
        NEEDS.pop("brightness", None)


def test_a_bank_needs_the_samples_numbers(
    make_teacher: Callable[..., Teacher], make_batch: Callable[..., Batch]
) -> None:
    teacher, batch = make_teacher("abc"), make_batch(3)
    student = make_teacher("abc", seed=1).network
    distiller = Distiller(
        student,
        teacher,
        {"crd": Term(loss="crd", negatives=3)},  # type: ignore[call-arg]
        image_shape=(1, 8, 8),
        train_labels=torch.arange(8) % 3,
    )
    with pytest.raises(UserError, match="The loss 'crd' reads index, but the batch has none"):
        distiller(Batch(batch.images, batch.labels))


def maskless(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return (student_logits - teacher_logits).square().mean()


def test_a_loss_without_a_mask_cannot_leave_rows_out(
    make_teacher: Callable[..., Teacher], make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSSES, "maskless", Loss(maskless, "ours"))
    student, teacher = make_teacher("abc", seed=1).network, make_teacher("abd")
    assert Distiller(student, teacher, {"m": Term(loss="maskless")})(make_batch(3))["loss"] > 0
    with pytest.raises(UserError, match="its loss takes no mask; give it a keyword mask"):
        Distiller(student, teacher, {"m": Term(loss="maskless")}, classes=LabelSpace("abc"))
