"""Student, teacher and weighted terms as one module that returns scalars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gkd.core.batch import Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.network import module_key
from gkd.data import Batches, ImageSet, Look
from gkd.distill.distiller import Distiller, weighted_sum
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.losses import (
    LOSSES,
    Loss,
)
from gkd.methods.terms import Term
from gkd.models import build_network
from tests.distill.exact_networks import exact_pair
from tests.refusals import refused

MakeTeacher = Callable[..., Teacher]
MakeBatch = Callable[..., Batch]


def products(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """A loss whose matrix product autocast would round."""
    return (student_embedding @ teacher_embedding.T).mean()


@pytest.fixture
def student() -> nn.Module:
    torch.manual_seed(0)
    return build_network("resnet8", num_classes=3, in_channels=1)


def test_it_returns_the_loss_and_each_term_before_weighting(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    terms = {
        "hard": Term(loss="cross_entropy", weight=0.1),
        "soft": Term(loss="kd", weight=0.9, temperature=2.0),
        "tuples": Term(loss="tuples", weight=7.0),
    }
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"abc"]))
    losses = Distiller(student, TeacherSide(make_teacher("abc"), relation), terms)(make_batch(3))
    assert set(losses) == {"loss", "loss/hard", "loss/soft", "loss/tuples", "empty/tuples"}
    assert all(value.dim() == 0 for value in losses.values())
    expected = 0.1 * losses["loss/hard"] + 0.9 * losses["loss/soft"] + 7.0 * losses["loss/tuples"]
    assert losses["loss"].item() == pytest.approx(expected.item())
    assert losses["loss"].requires_grad
    assert not losses["loss/soft"].requires_grad
    assert losses["empty/tuples"].item() == 0.0


def test_a_batch_without_a_tuple_is_counted(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"abc"]))
    distiller = Distiller(student, TeacherSide(make_teacher("abc"), relation), {"t": Term(loss="tuples")})
    losses = distiller(make_batch(1))  # one class: no negative
    assert (losses["loss"].item(), losses["empty/t"].item()) == (0.0, 1.0)
    losses["loss"].backward()


def test_weighted_sum_is_the_plain_sum_of_products() -> None:
    values = {"a": torch.tensor(2.0), "b": torch.tensor(-3.0)}
    assert weighted_sum(values, {"a": 10.0, "b": 0.5}).item() == 18.5


def test_schedules_move_the_weights(student: nn.Module, make_batch: MakeBatch) -> None:
    terms = {
        "up": Term(loss="cross_entropy", weight=2.0, schedule={"kind": "linear", "warmup_epochs": 4}),
        "down": Term(loss="cross_entropy", weight=3.0, schedule={"kind": "exponential", "rate": 0.5}),
    }
    distiller = Distiller(student, None, terms).eval()
    batch = make_batch(3)
    unit = distiller(batch)["loss/up"].item()
    for epoch, factor in ((0.0, 3.0), (1.0, 0.5 + 3 * 2.718281828**-0.5), (8.0, 2 + 3 * 2.718281828**-4)):
        distiller.set_epoch(epoch)
        losses = distiller(batch)
        assert losses["loss"].item() == pytest.approx(factor * unit, rel=1e-5)
        assert losses["loss/down"].item() == pytest.approx(unit)  # the terms stay unweighted


def test_what_a_term_lacks_is_refused_when_it_is_built(student: nn.Module, make_teacher: MakeTeacher) -> None:
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"abc"]))
    with refused("needs-teacher"):
        Distiller(student, None, {"kd": Term(loss="kd")})
    with refused("centres-missing"):
        Distiller(student, TeacherSide(make_teacher("abc"), relation), {"i": Term(loss="induced_classifier")})


def test_the_teacher_is_no_part_of_it(student: nn.Module, make_teacher: MakeTeacher) -> None:
    teacher = make_teacher("abc")
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"abc"]))
    terms = {"i": Term(loss="induced_classifier"), "kd": Term(loss="kd")}
    distiller = Distiller(student, TeacherSide(teacher, relation, centres=torch.ones(3, 64)), terms)
    assert set(distiller.state_dict()) == {f"student.{name}" for name in student.state_dict()}
    theirs = {id(parameter) for parameter in teacher.parameters()}
    assert not theirs & {id(parameter) for parameter in distiller.parameters()}
    trained = [p for group in distiller.param_groups() for p in group["params"]]
    assert not theirs & {id(parameter) for parameter in trained}
    assert teacher not in list(distiller.modules())


def test_the_teacher_rests_where_its_outputs_are_kept_or_not_read(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, batch = make_teacher("abc"), make_batch(3)
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"abc"]))
    expected = Distiller(student, TeacherSide(teacher, relation), {"kd": Term(loss="kd")}).eval()(batch)[
        "loss"
    ]
    batch.teacher = teacher.features(batch.images)
    monkeypatch.setattr(Teacher, "features", lambda *_: pytest.fail("the teacher ran"))
    kept = Distiller(student, TeacherSide(teacher, relation), {"kd": Term(loss="kd")}).eval()(batch)["loss"]
    assert torch.equal(kept, expected)
    batch.teacher = None
    Distiller(student, TeacherSide(teacher, relation), {"ce": Term(loss="cross_entropy")})(batch)


@pytest.mark.parametrize(
    ("train", "trained"),
    [
        (["student"], lambda name: True),
        (["head"], lambda name: name.startswith("fc.")),
        (["backbone"], lambda name: not name.startswith("fc.")),
        (["layer3", "head"], lambda name: name.startswith(("layer3.", "fc."))),
        (["student", "head"], lambda name: True),  # named twice, trained once
    ],
)
def test_param_groups_freeze_the_rest(
    student: nn.Module, train: list[str], trained: Callable[[str], bool]
) -> None:
    distiller = Distiller(student, None, {"ce": Term(loss="cross_entropy")})
    distiller.param_groups(["head"])  # a stage before must not matter
    groups = distiller.param_groups(train)
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    given = [names[id(parameter)] for group in groups for parameter in group["params"]]
    assert len(given) == len(set(given))
    assert set(given) == {name for name in names.values() if trained(name)}
    assert {name for name, p in student.named_parameters() if p.requires_grad} == set(given)
    assert all(group["lr_scale"] == group["decay_scale"] == 1.0 for group in groups)


def test_an_unknown_part_to_train_is_named(student: nn.Module) -> None:
    distiller = Distiller(student, None, {"ce": Term(loss="cross_entropy")})
    with refused("unknown-part-to-train"):
        distiller.param_groups(["hed"])


@pytest.mark.parametrize(
    "term",
    [
        {"loss": "cross_entropy"},
        {"loss": "kd"},
        {"loss": "sp"},
        {"loss": "tuples"},
        {"loss": "induced_classifier", "centres": "batch", "confidence": "pseudo-label"},
        {"loss": "products"},
    ],
    ids=lambda term: term["loss"],
)
def test_losses_do_not_feel_autocast(
    make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch, term: dict[str, Any]
) -> None:
    """Nor does one that takes no care itself."""
    monkeypatch.setitem(LOSSES, "products", Loss(products, "ours"))
    student, teacher, relation = exact_pair("abc", "abc")
    distiller = Distiller(student, TeacherSide(teacher, relation), {"term": Term(**term)})
    batch = make_batch(3)
    plain = distiller(batch)["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = distiller(batch)["loss"]
    assert plain.dtype == cast.dtype == torch.float32
    assert torch.equal(plain, cast)
    assert plain.item() != 0


# --- losses that own parameters ---------------------------------------------------------------------------------


def with_adapters(student: nn.Module, teacher: Teacher, **more: Any) -> Distiller:
    terms = {
        "vid": Term(loss="vid", at={"student": [1, 2], "teacher": [1, -1]}),
        "crd": Term(loss="crd", dim=5, negatives=6),
    }
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"abc"]))
    known = {"image_shape": (1, 8, 8), "train_labels": torch.arange(20) % 3}
    return Distiller(student, TeacherSide(teacher, relation), terms, **{**known, **more})


def test_modules_are_owned_trained_and_saved(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    distiller = with_adapters(student, make_teacher("abc"))
    assert [len(distiller.adapters[name]) for name in ("vid", "crd")] == [2, 1]
    batch = make_batch(3)
    losses = distiller(batch)
    outputs, targets = student.features(batch.images), distiller.teacher.features(batch.images)
    expected = sum(
        module(outputs.maps[one], targets.maps[other])
        for module, (one, other) in zip(distiller.adapters["vid"], [(1, 1), (2, -1)], strict=True)
    )
    assert losses["loss/vid"].item() == pytest.approx(expected.item(), rel=1e-5)
    _, adapters = distiller.param_groups()
    assert {id(p) for p in adapters["params"]} == {id(p) for p in distiller.adapters.parameters()}
    losses["loss"].backward()
    assert all(p.grad is not None for p in distiller.adapters.parameters())
    saved = distiller.state_dict()
    assert {"adapters.vid.0.raw_variance", "adapters.crd.0.student_bank"} <= saved.keys()


def test_what_a_module_is_built_from_must_be_given(student: nn.Module, make_teacher: MakeTeacher) -> None:
    with refused("needs-image-shape"):
        with_adapters(student, make_teacher("abc"), image_shape=None)
    with refused("needs-train-labels"):
        with_adapters(student, make_teacher("abc"), train_labels=None)


def test_a_term_that_owns_parameters_may_have_any_name(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    relation, losses = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"abc"])), {}
    names = ["hint", "keys", "training", "a.b", "a%2Eb", "=keys", ""]
    for name in names:
        torch.manual_seed(0)
        terms = {name: Term(loss="fitnet", at={"student": 1, "teacher": 2})}  # type: ignore[arg-type]
        side = TeacherSide(make_teacher("abc"), relation)
        distiller = Distiller(student, side, terms, image_shape=(1, 8, 8)).eval()
        losses[name] = distiller(make_batch(3))[f"loss/{name}"].item()
    assert losses == dict.fromkeys(names, losses["hint"])
    assert len({module_key(name) for name in names}) == len(names)
    assert module_key("hint") == "hint"  # as in the checkpoints of earlier versions


def test_a_part_of_a_batch_pulls_as_a_part(make_teacher: MakeTeacher, make_batch: MakeBatch) -> None:
    """Scaled by b / B, against the batch size that is given or the largest batch so far; full ones keep their bits."""
    student, teacher, relation = exact_pair("abc", "xyz")
    sides, terms = TeacherSide(teacher, relation), {"sp": Term(loss="sp", weight=3.0, at={"student": -1})}
    batch = make_batch(3)
    whole = Distiller(student, sides, terms)(batch)["loss"]
    assert torch.equal(Distiller(student, sides, terms, batch_size=8)(batch)["loss"], whole)
    torch.testing.assert_close(Distiller(student, sides, terms, batch_size=32)(batch)["loss"], whole / 4)
    distiller = Distiller(student, sides, terms)
    distiller._batch_size = 16  # a batch of 16 was before
    losses = distiller(batch)
    torch.testing.assert_close(losses["loss"], whole / 2)
    torch.testing.assert_close(distiller.eval()(batch)["loss"], whole)  # nothing pulls there
    looked_at = Distiller(student, sides, terms).eval()
    looked_at._batch_size = 0
    looked_at(batch)
    assert looked_at._batch_size == 0
    torch.testing.assert_close(losses["loss/sp"], whole.detach() / 3)  # as it is, before weighting


@pytest.mark.parametrize("drop_last", [True, False])
def test_the_rest_of_an_epoch_does_not_ruin_similarities(
    drop_last: bool, make_set: Callable[..., ImageSet], make_teacher: MakeTeacher
) -> None:
    """SP's value is of the order 1 / B: unscaled, batches of 8 after those of 128 end this run at 85 %."""
    images, test, teacher = make_set("abcd", 136), make_set("abcd", 200, seed=1), make_teacher("efgh")
    torch.manual_seed(0)
    student = build_network("resnet8", num_classes=4, in_channels=1)
    terms = {
        "cross_entropy": Term(loss="cross_entropy"),
        "sp": Term(loss="sp", weight=3000, at={"student": -1, "teacher": -1}),
    }
    side = TeacherSide(teacher, LabelRelation(teacher.space, images.space))
    distiller = Distiller(student, side, terms)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    batches = Batches(images, Look((0.5,), (0.25,)), batch_size=128, seed=0, drop_last=drop_last)
    for epoch in range(25):
        for batch in batches.epoch(epoch):
            optimiser.zero_grad()
            distiller(replace(batch, shared=True))["loss"].backward()
            optimiser.step()
    student.eval()
    right = student((test.images.float() / 255 - 0.5) / 0.25).argmax(1) == test.labels
    assert right.float().mean() > 0.95
