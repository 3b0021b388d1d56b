"""What a loss reads: one table of facts, one of functions, and a third party's entry in both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gkd.core.batch import NO_LABEL, Batch
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.distill.distiller import Distiller
from gkd.distill.inputs import PROVIDERS, Reading, add_provider
from gkd.distill.side import TeacherSide
from gkd.distill.teacher import Teacher
from gkd.losses import (
    LOSSES,
    NEEDS,
    Loss,
    Mask,
    Need,
    affinity_loss,
    at_loss,
    cat_kd_loss,
    class_centres,
    dkd_loss,
    episode_induced_loss,
    fsp_loss,
    induced_classifier_loss,
    kd_loss,
    prototype_loss,
    teacher_confidence,
)
from gkd.methods.terms import Term
from gkd.models import build_network
from tests.distill.exact_networks import exact_pair
from tests.refusals import refused

MakeTeacher = Callable[..., Teacher]
MakeBatch = Callable[..., Batch]


def test_facts_and_functions_are_of_the_same_things() -> None:
    assert PROVIDERS.keys() == NEEDS.keys()
    for name, need in NEEDS.items():
        assert need.from_teacher == (name.startswith("teacher") or name == "centres")
        assert need.after <= need.at_spot
        assert need.every <= need.at_spot
        assert need.about


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
        with refused("provider-twice"):
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
    with refused("index-missing"):
        distiller(Batch(batch.images, batch.labels))


def all_maps(student_maps: list[Tensor], teacher_maps: list[Tensor], *, mask: Mask = None) -> Tensor:
    """The apartness of all maps at once."""
    assert len(student_maps) == len(teacher_maps) == 3
    pairs = enumerate(zip(student_maps, teacher_maps, strict=True), start=1)
    return torch.stack([number * (ours - theirs).square().mean() for number, (ours, theirs) in pairs]).sum()


@pytest.mark.parametrize("preact", [None, "student", "teacher", "both"])
def test_a_loss_reads_all_spots_at_once_before_or_after_their_activation(
    preact: str | None,
    make_teacher: MakeTeacher,
    make_batch: MakeBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(LOSSES, "all_maps", Loss(all_maps, "ours"))
    student, teacher, batch = make_teacher("abc", seed=1).network, make_teacher("abc"), make_batch(3)
    term = Term(
        loss="all_maps", at={"student": [1, 2, "embedding"], "teacher": [1, 2, "embedding"], "preact": preact}
    )  # type: ignore[arg-type]
    loss = Distiller(student, teacher, {"m": term}, image_shape=(1, 8, 8))(batch)["loss"]
    sides = []
    for network, name in ((student, "student"), (teacher.network, "teacher")):
        features = network.features(batch.images, preact=True)
        maps = features.preact_maps if preact in (name, "both") else features.maps
        sides.append([maps[1], maps[2], features.embedding])
    torch.testing.assert_close(loss, all_maps(*sides))


def head_parameters(
    student_weight: Tensor, teacher_weight: Tensor, teacher_bias: Tensor, epoch: Tensor, *, mask: Mask = None
) -> Tensor:
    """The apartness of two heads, and the epoch."""
    return (student_weight - teacher_weight).square().sum() + teacher_bias.sum() + epoch


def test_a_loss_reads_the_heads_rows_of_shared_classes_and_the_epoch(
    make_teacher: MakeTeacher, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSSES, "heads", Loss(head_parameters, "ours"))
    student, teacher = build_network("resnet8", num_classes=3, in_channels=1), make_teacher("dcb")
    distiller = Distiller(student, teacher, {"h": Term(loss="heads")}, classes=LabelSpace([*"abc"]))
    distiller.set_epoch(2.5)
    ours, theirs, bias = student.head.weight, teacher.network.head.weight, teacher.network.head.bias
    expected = (ours[[1, 2]] - theirs[[2, 1]]).square().sum() + bias[[2, 1]].sum() + 2.5
    loss = distiller(make_batch(3))["loss"]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert theirs.grad is None
    assert ours.grad[0].abs().sum() == 0


def maskless(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return (student_logits - teacher_logits).square().mean()


def test_a_loss_without_a_mask_cannot_leave_rows_out(
    make_teacher: Callable[..., Teacher], make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSSES, "maskless", Loss(maskless, "ours"))
    student, teacher = make_teacher("abc", seed=1).network, make_teacher("abd")
    assert Distiller(student, teacher, {"m": Term(loss="maskless")})(make_batch(3))["loss"] > 0
    with refused("needs-mask"):
        Distiller(student, teacher, {"m": Term(loss="maskless")}, classes=LabelSpace([*"abc"]))


@pytest.fixture
def student() -> nn.Module:
    torch.manual_seed(0)
    return build_network("resnet8", num_classes=3, in_channels=1)


def test_kd_over_a_permuted_space_equals_kd_on_aligned_logits(make_batch: MakeBatch) -> None:
    student, teacher, relation = exact_pair("abcd", "dbac")
    loss = Distiller(student, TeacherSide(teacher, relation), {"kd": Term(loss="kd")})(make_batch(4))["loss"]
    aligned = teacher.network(torch.zeros(1))[:, ["dbac".index(name) for name in "abcd"]]
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
    teacher_logits = teacher.network(torch.zeros(1))[chosen][:, [2, 0]]
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


@pytest.mark.parametrize("rows", ["known", "all"])
def test_similarity_transfer_takes_the_rows_that_it_is_told(
    student: nn.Module, make_teacher: MakeTeacher, make_batch: MakeBatch, rows: str
) -> None:
    """With the true classes kept it is KD, on clean images too; no target is read."""
    relation = LabelRelation(LabelSpace([*"bcd"]), LabelSpace([*"abc"]))
    terms = {"kd": Term(loss="kd", rows=rows), "stkd": Term(loss="stkd", rows=rows)}
    losses = Distiller(student, TeacherSide(make_teacher("bcd"), relation), terms)(make_batch(3))
    assert losses["loss/stkd"].item() == pytest.approx(losses["loss/kd"].item(), rel=1e-5)


def test_a_term_within_an_episode_reads_its_ways_and_support(
    make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    teacher = make_teacher("abc")
    student = make_teacher("abc", seed=1).network
    terms = {name: Term(loss=name) for name in ("prototype", "episode_induced", "cross_entropy")}
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"abc"]))
    distiller = Distiller(student, TeacherSide(teacher, relation), terms).eval()
    batch = make_batch(3, size=9)
    with refused("not-an-episode"):
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


def test_terms_on_labels_see_labelled_rows_alone(make_teacher: MakeTeacher, make_batch: MakeBatch) -> None:
    """Their losses are those of the labelled rows by themselves; a term that reads no label sees every row."""
    student, teacher, whole = make_teacher("bcd", seed=1).network, make_teacher("abc"), make_batch(3, size=12)
    relation = LabelRelation(LabelSpace([*"abc"]), LabelSpace([*"bcd"]))
    labelled = torch.tensor([True] * 7 + [False] * 5)
    mixed = replace(
        whole, labels=whole.labels.where(labelled, NO_LABEL), index=whole.numbers, labelled=labelled
    )
    some = replace(whole, images=whole.images[:7], labels=whole.labels[:7], index=whole.numbers[:7])
    on_labels = {
        "cross_entropy": {}, "tuples": {}, "dkd": {}, "crd": {"negatives": 4}, "crd_queue": {},
        "induced_classifier": {"centres": "batch", "confidence": "entropy"}, "norm_direction": {"centres": "batch"},
        "kd": {},  # on rows whose class the teacher has
    }  # fmt: skip
    on_all = {"sp": {}, "queue_similarity": {}, "all": {"loss": "kd", "rows": "all"}}
    terms = {key: Term(**{"loss": key, **options}) for key, options in {**on_labels, **on_all}.items()}

    def losses(batch: Batch) -> dict[str, Tensor]:
        torch.manual_seed(0)
        side = TeacherSide(teacher, relation)
        settings = {"image_shape": (1, 8, 8), "train_labels": whole.labels[:7]}
        distiller = Distiller(student, side, terms, **settings).eval()  # type: ignore[arg-type]
        return dict(distiller(batch))

    of_mixed, of_some, of_whole = losses(mixed), losses(some), losses(replace(whole, index=whole.numbers % 7))
    for name in on_labels:
        torch.testing.assert_close(of_mixed[f"loss/{name}"], of_some[f"loss/{name}"], msg=name)
        assert not of_mixed[f"loss/{name}"].equal(of_whole[f"loss/{name}"]), name
    for name in on_all:
        torch.testing.assert_close(of_mixed[f"loss/{name}"], of_whole[f"loss/{name}"], msg=name)
        assert not of_mixed[f"loss/{name}"].equal(of_some[f"loss/{name}"]), name


def test_a_loss_on_labels_without_a_mask_cannot_leave_out_a_row(
    make_teacher: MakeTeacher, make_batch: MakeBatch
) -> None:
    student, batch = make_teacher("abc").network, make_batch(3)
    batch.labelled = torch.arange(8) < 5
    term = Term(loss="tests.methods.test_stage:bare_loss")
    with refused("needs-mask"):
        Distiller(student, None, {"bare": term})(batch)


def test_class_attention_reads_the_pooled_maps_and_the_shared_rows_of_both_heads(
    make_teacher: MakeTeacher,
) -> None:
    """The student has classes b, c, d of the teacher's a, b, c; its head takes a widened map."""
    torch.manual_seed(0)
    student = build_network("ShuffleV2", num_classes=3, in_channels=1)
    teacher, batch = make_teacher("abc"), Batch(torch.randn(6, 1, 16, 16), torch.arange(6) % 3, shared=True)
    distiller = Distiller(
        student,
        TeacherSide(teacher, LabelRelation(LabelSpace(list("abc")), LabelSpace(list("bcd")))),
        {"cat_kd": Term(loss="cat_kd")},
        image_shape=batch.images.shape[1:],
    )
    losses = distiller.eval()(batch)
    ours, theirs = student.features(batch.images), teacher.features(batch.images)
    assert ours.pooled_map is not None
    assert theirs.pooled_map is not None
    expected = cat_kd_loss(
        ours.pooled_map,
        theirs.pooled_map,
        student.head.weight[[0, 1]],
        teacher.network.head.weight[[1, 2]],
        mask=batch.labels < 2,
    )
    torch.testing.assert_close(losses["loss/cat_kd"], expected.detach())


def test_a_network_without_a_pooled_map_is_refused(make_teacher: MakeTeacher) -> None:
    student = build_network("resnet12_narrow", num_classes=3, in_channels=1)
    with refused("no-pooled-map"):
        Distiller(student, make_teacher("abc"), {"cat_kd": Term(loss="cat_kd")}, image_shape=(1, 32, 32))
    distiller = Distiller(student, make_teacher("abc"), {"cat_kd": Term(loss="cat_kd")})
    with refused("no-pooled-map"):
        distiller(Batch(torch.randn(3, 1, 32, 32), torch.arange(3), shared=True))
