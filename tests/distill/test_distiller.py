"""Student, teacher and weighted terms as one module that returns scalars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gkd.core.batch import Batch
from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.core.network import Features
from gkd.core.tapped import output_shapes
from gkd.distill.distiller import Distiller, weighted_sum
from gkd.distill.fit_check import both_shapes, check_terms
from gkd.distill.mixing import draw_mixture, interpolated_logits, mix_batch
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.losses import (
    LOSSES,
    Loss,
    affinity_loss,
    at_loss,
    class_centres,
    dkd_loss,
    episode_induced_loss,
    fsp_loss,
    induced_classifier_loss,
    kd_loss,
    prototype_loss,
    teacher_confidence,
)
from gkd.methods.mixup import Mixup
from gkd.methods.terms import Term
from gkd.models import build_network

MakeTeacher = Callable[..., Teacher]
MakeBatch = Callable[..., Batch]


class Exact(nn.Module):
    """A network whose features are given numbers, so that only the losses can round."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.given = features
        self.num_classes = features.logits.shape[1]
        self.embedding_dim = features.embedding.shape[1]
        self.fc = nn.Linear(self.embedding_dim, self.num_classes)

    @property
    def head(self) -> nn.Module:
        return self.fc

    def forward(self, images: Tensor) -> Tensor:
        return self.given.logits

    def features(self, images: Tensor) -> Features:
        return self.given


def products(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """A loss whose matrix product autocast would round."""
    return (student_embedding @ teacher_embedding.T).mean()


def exact(num_classes: int, *, seed: int, size: int = 8) -> Exact:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, num_classes, generator=generator).requires_grad_()
    embedding = torch.randn(size, 6, generator=generator).requires_grad_()
    maps = (torch.randn(size, 4, 2, 2, generator=generator), torch.randn(size, 6, 2, 2, generator=generator))
    return Exact(Features(logits, embedding, tuple(m.requires_grad_() for m in maps)))


def exact_pair(student: str, teacher: str) -> tuple[Exact, Teacher, LabelRelation]:
    pupil, master = exact(len(student), seed=1), exact(len(teacher), seed=2)
    frozen = Teacher(master, LabelSpace(teacher), mean=(0.5,), std=(0.25,))
    return pupil, frozen, LabelRelation(LabelSpace(teacher), LabelSpace(student))


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
    relation = LabelRelation(LabelSpace("abc"), LabelSpace("abc"))
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
    relation = LabelRelation(LabelSpace("abc"), LabelSpace("abc"))
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


def test_kd_over_a_permuted_space_equals_kd_on_aligned_logits(make_batch: MakeBatch) -> None:
    student, teacher, relation = exact_pair("abcd", "dbac")
    loss = Distiller(student, TeacherSide(teacher, relation), {"kd": Term(loss="kd")})(make_batch(4))["loss"]
    aligned = teacher(torch.zeros(1))[:, ["dbac".index(name) for name in "abcd"]]
    assert relation.kind == "same"
    assert loss.item() == pytest.approx(kd_loss(student.given.logits, aligned).item())


@pytest.mark.parametrize("rows", ["known", "all"])
def test_kd_over_overlapping_spaces_uses_the_shared_columns_and_the_chosen_rows(
    make_batch: MakeBatch, rows: str
) -> None:
    student, teacher, relation = exact_pair("abcd", "dxb")  # b and d are shared
    batch = make_batch(4)
    term = Term(loss="kd", temperature=2.0, rows=rows)
    loss = Distiller(student, TeacherSide(teacher, relation), {"kd": term})(batch)["loss"]
    chosen = torch.tensor([rows == "all" or "abcd"[label] in "bd" for label in batch.labels])
    student_logits = student.given.logits[chosen][:, [1, 3]]
    teacher_logits = teacher(torch.zeros(1))[chosen][:, [2, 0]]
    expected = kd_loss(student_logits, teacher_logits, temperature=2.0)
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    gradient = student.given.logits.grad
    assert gradient is not None
    assert (gradient[chosen][:, [1, 3]] != 0).all()
    assert (gradient[~chosen] == 0).all()
    assert (gradient[:, [0, 2]] == 0).all()


def test_a_term_chooses_its_rows_before_the_task_does(make_batch: MakeBatch) -> None:
    student, teacher, relation = exact_pair("abcd", "dxb")

    def loss(rows: str, task: str) -> float:
        term = Term(loss="kd", **({"rows": rows} if rows else {}))
        distiller = Distiller(student, TeacherSide(teacher, relation, rows=task), {"kd": term})  # type: ignore[arg-type]
        return distiller(make_batch(4))["loss"].item()

    assert loss("", "known") == loss("known", "all") != loss("all", "known")
    assert loss("", "all") == loss("all", "known")


def test_centres_come_from_the_training_set_or_the_batch(make_batch: MakeBatch) -> None:
    student, teacher, relation = exact_pair("abc", "xyz")
    batch = make_batch(3)
    embedding = teacher.features(batch.images).embedding
    given = torch.nn.functional.normalize(torch.randn(3, 6, generator=torch.Generator().manual_seed(5)))
    cases = {"train": given, "batch": class_centres(embedding, batch.labels, 3)[0]}
    for where, centres in cases.items():
        terms = {"induced": Term(loss="induced_classifier", centres=where)}
        loss = Distiller(student, TeacherSide(teacher, relation, centres=given), terms)(batch)["loss"]
        expected = induced_classifier_loss(student.given.logits, embedding, centres, batch.labels)
        assert loss.item() == pytest.approx(expected.item())


def test_confidence_weights_the_samples(make_batch: MakeBatch) -> None:
    student, teacher, relation = exact_pair("abc", "xyz")
    batch = make_batch(3)
    features = teacher.features(batch.images)
    term = Term(loss="induced_classifier", centres="batch", confidence="entropy")
    loss = Distiller(student, TeacherSide(teacher, relation), {"induced": term})(batch)["loss"]
    expected = induced_classifier_loss(
        student.given.logits,
        features.embedding,
        class_centres(features.embedding, batch.labels, 3)[0],
        batch.labels,
        weights=teacher_confidence(features.logits, "entropy"),
    )
    assert loss.item() == pytest.approx(expected.item())


def test_what_a_term_lacks_is_refused_when_it_is_built(student: nn.Module, make_teacher: MakeTeacher) -> None:
    relation = LabelRelation(LabelSpace("abc"), LabelSpace("abc"))
    with pytest.raises(UserError, match="'kd' reads student_logits, teacher_logits, but there is no teacher"):
        Distiller(student, None, {"kd": Term(loss="kd")})
    with pytest.raises(UserError, match="'i' reads train-set centres; give them, or set centres: batch"):
        Distiller(student, TeacherSide(make_teacher("abc"), relation), {"i": Term(loss="induced_classifier")})


def test_a_map_that_is_not_there_is_refused(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    relation = LabelRelation(LabelSpace("abc"), LabelSpace("abc"))
    distiller = Distiller(
        student, TeacherSide(make_teacher("abc"), relation), {"sp": Term(loss="sp", at={"student": 4})}
    )
    with pytest.raises(UserError, match=r"spot 4 is outside the network's 4 maps; use -4 to 3"):
        distiller(make_batch(3))


def test_the_teacher_is_no_part_of_it(student: nn.Module, make_teacher: MakeTeacher) -> None:
    teacher = make_teacher("abc")
    relation = LabelRelation(LabelSpace("abc"), LabelSpace("abc"))
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
    relation = LabelRelation(LabelSpace("abc"), LabelSpace("abc"))
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
    with pytest.raises(UserError, match=r"Unknown part to train 'hed'. Did you mean 'head'\?"):
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


def test_dkd_over_overlapping_classes_reads_labels_among_the_shared_ones(make_batch: MakeBatch) -> None:
    """Rows whose class the teacher does not know have no target, whatever the task's ``rows`` says."""
    pupil, teacher, relation = exact_pair("xbca", "abcd")
    batch = make_batch(4)
    known = torch.tensor([1, 2, 3])[None] == batch.labels[:, None]
    rows = known.any(1).nonzero()[:, 0]
    shared = [
        pupil.given.logits[:, relation.student_index],
        teacher.network.given.logits[:, relation.teacher_index],
    ]
    names = [relation.student.names[i] for i in relation.student_index]
    labels = torch.tensor([names.index(relation.student.names[i]) for i in batch.labels[rows]])
    expected = dkd_loss(shared[0][rows], shared[1][rows], labels)
    for which in ("known", "all"):
        terms = {"dkd": Term(loss="dkd")}
        losses = Distiller(pupil, TeacherSide(teacher, relation, rows=which), terms)(batch)
        torch.testing.assert_close(losses["loss/dkd"], expected.detach())


def test_several_spots_are_summed_pair_by_pair(make_batch: MakeBatch) -> None:
    pupil, teacher, relation = exact_pair("abc", "abc")
    terms = {"at": Term(loss="at", at={"student": [0, 1], "teacher": [1, 0]})}  # type: ignore[arg-type]
    losses = Distiller(pupil, TeacherSide(teacher, relation), terms)(make_batch(3))
    ours, theirs = pupil.given.maps, teacher.network.given.maps
    expected = at_loss(ours[0], theirs[1]) + at_loss(ours[1], theirs[0])
    torch.testing.assert_close(losses["loss/at"], expected.detach())


def test_a_loss_on_two_maps_reads_a_spot_and_the_next(make_batch: MakeBatch) -> None:
    pupil, teacher, relation = exact_pair("abc", "abc")
    terms = {"fsp": Term(loss="fsp", at={"student": [0, 1], "teacher": [0, 1]})}  # type: ignore[arg-type]
    losses = Distiller(pupil, TeacherSide(teacher, relation), terms)(make_batch(3))
    expected = fsp_loss(*pupil.given.maps, *teacher.network.given.maps)
    torch.testing.assert_close(losses["loss/fsp"], expected.detach())


def test_an_affinity_is_of_whatever_stands_at_its_spots(make_batch: MakeBatch) -> None:
    pupil, teacher, relation = exact_pair("abc", "abc")
    at = {"student": "embedding", "teacher": 0}
    terms = {"affinity": Term(loss="affinity", at=at)}  # type: ignore[arg-type]
    losses = Distiller(pupil, TeacherSide(teacher, relation), terms)(make_batch(3))
    expected = affinity_loss(pupil.given.embedding, teacher.network.given.maps[0])
    torch.testing.assert_close(losses["loss/affinity"], expected.detach())


# --- losses that own parameters ---------------------------------------------------------------------------------


def with_adapters(student: nn.Module, teacher: Teacher, **more: Any) -> Distiller:
    terms = {
        "vid": Term(loss="vid", at={"student": [1, 2], "teacher": [1, -1]}),
        "crd": Term(loss="crd", dim=5, negatives=6),
    }
    relation = LabelRelation(LabelSpace("abc"), LabelSpace("abc"))
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


def test_shapes_are_found_without_touching_statistics_modes_or_random_numbers(
    student: nn.Module, make_teacher: MakeTeacher
) -> None:
    student.train()
    student.layer1.eval()
    before = {name: values.clone() for name, values in student.state_dict().items()}
    torch.manual_seed(3)
    shapes = output_shapes(student, (1, 8, 8))
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(3))
    assert shapes.embedding == (64,)
    assert shapes.maps[-1] == (64, 2, 2)
    assert all(torch.equal(before[name], values) for name, values in student.state_dict().items())
    assert student.training
    assert student.layer2.training
    assert not student.layer1.training


def test_what_a_module_is_built_from_must_be_given(student: nn.Module, make_teacher: MakeTeacher) -> None:
    with pytest.raises(UserError, match=r"'vid' owns parameters; give image_shape=\(C, H, W\)"):
        with_adapters(student, make_teacher("abc"), image_shape=None)
    with pytest.raises(UserError, match="'crd' keeps memory banks; give train_labels"):
        with_adapters(student, make_teacher("abc"), train_labels=None)


def refuse(terms: dict[str, Term], student: nn.Module, teacher: Teacher | None, labels: Tensor) -> None:
    check_terms(terms, *both_shapes(student, teacher, (1, 8, 8), (1, 8, 8)), labels)


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ({"loss": "at", "at": {"student": [1, 9], "teacher": [1, 2]}}, "The spot 9 is outside"),
        ({"loss": "nst", "at": {"student": "embedding", "teacher": -1}}, "it reads maps of"),
        (
            {"loss": "fsp", "at": {"student": [0, 1], "teacher": [1, 2]}},
            "fsp needs the same numbers of channels",
        ),
        ({"loss": "fitnet", "at": {"student": "embedding", "teacher": 1}}, "are not both maps"),
        ({"loss": "vid", "at": {"student": "logits", "teacher": 1}}, "'vid' gives \\[3\\] a sample"),
    ],
)
def test_terms_that_do_not_fit_the_networks_are_refused_before_a_step(
    student: nn.Module, make_teacher: MakeTeacher, term: dict[str, Any], text: str
) -> None:
    with pytest.raises(UserError, match=text):
        refuse({"term": Term.model_validate(term)}, student, make_teacher("abc"), torch.arange(3))


def test_labels_without_a_negative_are_refused_before_a_step(
    student: nn.Module, make_teacher: MakeTeacher
) -> None:
    with pytest.raises(UserError, match="The term 'crd': CRD has no negative"):
        refuse({"crd": Term(loss="crd")}, student, make_teacher("abc"), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(UserError, match=r"'crd' reads .*, but there is no teacher"):
        refuse({"crd": Term(loss="crd")}, student, None, torch.arange(3))


# --- virtual samples --------------------------------------------------------------------------------------------


def virtual(student: nn.Module, frozen: Teacher, relation: LabelRelation, **mixup: Any) -> Distiller:
    terms = {
        "hard": Term(loss="cross_entropy", samples="virtual"),
        "soft": Term(loss="stkd", samples="virtual", temperature=2.0),
        "clean": Term(loss="kd", temperature=2.0),
    }
    return Distiller(student, TeacherSide(frozen, relation), terms, mixup=Mixup(**mixup)).eval()


@pytest.mark.parametrize("how", ["mixed", "interpolated"])
def test_terms_on_virtual_samples_see_the_mixture(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch, how: str
) -> None:
    teacher, batch = make_teacher("cab"), make_batch(3)
    relation = LabelRelation(LabelSpace("cab"), LabelSpace("abc"))
    distiller = virtual(student, teacher, relation, teacher=how)
    torch.manual_seed(5)
    losses = distiller(batch)
    torch.manual_seed(5)
    mixture = draw_mixture(Mixup(), 8, torch.device("cpu"))
    mixed = mix_batch(batch, mixture, 3)
    logits, targets = student(mixed.images), teacher(mixed.images)[:, [1, 2, 0]]
    if how == "interpolated":
        targets = interpolated_logits(teacher(batch.images)[:, [1, 2, 0]], mixture, 2.0)
    hard = torch.nn.functional.cross_entropy(logits, mixed.labels)
    assert losses["loss/hard"].item() == pytest.approx(hard.item(), rel=1e-5)
    assert losses["loss/soft"].item() == pytest.approx(
        kd_loss(logits, targets, temperature=2.0).item(), rel=1e-4
    )
    clean = kd_loss(student(batch.images), teacher(batch.images)[:, [1, 2, 0]], temperature=2.0)
    assert losses["loss/clean"].item() == pytest.approx(clean.item(), rel=1e-4)


def test_virtual_rows_count_where_all_their_classes_are_shared(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    teacher, batch = make_teacher("bcd"), make_batch(3)  # the student's a is not shared
    relation = LabelRelation(LabelSpace("bcd"), LabelSpace("abc"))
    distiller = virtual(student, teacher, relation)
    torch.manual_seed(5)
    soft = distiller(batch)["loss/soft"]
    torch.manual_seed(5)
    mixed = mix_batch(batch, draw_mixture(Mixup(), 8, torch.device("cpu")), 3)
    chosen = mixed.labels[:, 0] == 0
    assert 0 < int(chosen.sum()) < 8
    expected = kd_loss(
        student(mixed.images)[chosen][:, 1:], teacher(mixed.images)[chosen][:, :2], temperature=2.0
    )
    assert soft.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(("options", "temperature"), [({}, 4.0), ({"temperature": 1.5}, 1.5)])
def test_interpolation_is_at_the_losses_own_temperature(
    make_batch: MakeBatch, options: dict[str, Any], temperature: float
) -> None:
    pupil, teacher, relation = exact_pair("abc", "abc")
    terms = {"kd": Term(loss="kd", samples="virtual", **options)}
    mixup = Mixup(teacher="interpolated", weight=0.4)
    torch.manual_seed(5)
    loss = Distiller(pupil, TeacherSide(teacher, relation), terms, mixup=mixup)(make_batch(3))["loss"]
    torch.manual_seed(5)
    mixture = draw_mixture(mixup, 8, torch.device("cpu"))
    logits = teacher.network.given.logits.detach()
    target = interpolated_logits(logits, mixture, temperature)
    expected = kd_loss(pupil.given.logits, target, temperature=temperature)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    other = kd_loss(pupil.given.logits, interpolated_logits(logits, mixture, 1.0), temperature=temperature)
    assert abs(other.item() / expected.item() - 1) > 1e-3  # so the test tells them apart


@pytest.mark.parametrize("rows", ["known", "all"])
def test_similarity_transfer_takes_the_rows_that_it_is_told(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch, rows: str
) -> None:
    """With the true classes kept it is KD, on clean images too; no target is read."""
    relation = LabelRelation(LabelSpace("bcd"), LabelSpace("abc"))
    terms = {"kd": Term(loss="kd", rows=rows), "stkd": Term(loss="stkd", rows=rows)}
    losses = Distiller(student, TeacherSide(make_teacher("bcd"), relation), terms)(make_batch(3))
    assert losses["loss/stkd"].item() == pytest.approx(losses["loss/kd"].item(), rel=1e-5)


def test_virtual_samples_need_mixup(student: nn.Module) -> None:
    terms = {"hard": Term(loss="cross_entropy", samples="virtual")}
    with pytest.raises(UserError, match="'hard' is on virtual samples, but no mixup"):
        Distiller(student, None, terms)


def test_the_clean_teacher_is_not_run_for_virtual_samples_alone(
    student: nn.Module, make_teacher: MakeTeacher
) -> None:
    relation = LabelRelation(LabelSpace("abc"), LabelSpace("abc"))
    terms = {"soft": Term(loss="stkd", samples="virtual")}
    for how, reads in (("mixed", False), ("interpolated", True)):
        distiller = Distiller(
            student, TeacherSide(make_teacher("abc"), relation), terms, mixup=Mixup(teacher=how)
        )
        assert distiller.reads_clean_teacher == reads


def test_a_term_within_an_episode_reads_its_ways_and_support(
    make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    teacher = make_teacher("abc")
    student = make_teacher("abc", seed=1).network
    terms = {name: Term(loss=name) for name in ("prototype", "episode_induced", "cross_entropy")}
    relation = LabelRelation(LabelSpace("abc"), LabelSpace("abc"))
    distiller = Distiller(student, TeacherSide(teacher, relation), terms).eval()
    batch = make_batch(3, size=9)
    with pytest.raises(UserError, match="The loss 'prototype' reads way, but the batch is no episode"):
        distiller(batch)
    way, support = torch.tensor([1, 0, 2] * 3), torch.arange(9) < 5
    episode = replace(batch, way=way, support=support)
    losses = distiller(episode)
    own, theirs = student.features(batch.images).embedding, teacher.features(batch.images).embedding
    torch.testing.assert_close(losses["loss/prototype"], prototype_loss(own, way, support))
    torch.testing.assert_close(
        losses["loss/episode_induced"], episode_induced_loss(own, theirs, way, support)
    )
    assert losses["loss/cross_entropy"] == distiller(replace(episode, way=2 - way))["loss/cross_entropy"]
