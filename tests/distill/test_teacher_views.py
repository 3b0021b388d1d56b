"""A teacher's kept outputs are those that it would give now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gkd.core.batch import Batch
from gkd.data import Batches, ImageSet, Look
from gkd.distill.output_files import OutputFiles
from gkd.distill.teacher import Teacher
from gkd.distill.teacher_views import TeacherViews, _rows_on
from gkd.methods.spots import Preact, output_at
from gkd.storage import mapped_rows
from tests.refusals import refused

MakeTeacher = Callable[..., Teacher]


LOOK = Look((0.5,), (0.25,), "crop-flip")


@pytest.fixture
def make_batches(make_set: Callable[..., ImageSet]) -> Callable[..., Batches]:
    images = make_set("abcd", 20)

    def make(**settings: object) -> Batches:
        defaults = {"batch_size": 6, "seed": 1, "views": 2, "teacher": LOOK}
        return Batches(images, LOOK, **{**defaults, **settings})  # type: ignore[arg-type]

    return make


def views_of(teacher: Teacher, limit: float = 1e9, **where: Any) -> TeacherViews:
    return TeacherViews(teacher, autocast=torch.autocast("cpu", enabled=False), chunk=7, limit=limit, **where)


def tensors_of(batch: Batch) -> tuple[Tensor, ...]:
    assert batch.teacher is not None
    return batch.teacher.logits, batch.teacher.embedding, *batch.teacher.maps


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each view that is computed."""
    counted: list[int] = []
    compute = TeacherViews._parts

    def parts(self: TeacherViews, epoch: int, *arguments: Any) -> Any:
        counted.append(epoch)
        return compute(self, epoch, *arguments)

    monkeypatch.setattr(TeacherViews, "_parts", parts)
    return counted


@pytest.mark.parametrize(
    "look", [LOOK, replace(LOOK, mean=(0.0,), std=(1.0,)), replace(LOOK, augment="none")]
)
def test_kept_outputs_are_those_of_the_same_batches(
    make_teacher: MakeTeacher, make_batches: Callable[..., Batches], look: Look
) -> None:
    teacher, batches = make_teacher("abc"), make_batches(teacher=look)
    views = views_of(teacher)
    for epoch in range(3):  # views 0, 1 and 0 again
        plain = list(batches.epoch(epoch, 1))
        for batch, expected in zip(views.epoch(epoch, 1, {-1, 1}, batches), plain, strict=True):
            assert torch.equal(batch.images, expected.images)
            assert torch.equal(batch.index, expected.index)
            fresh = teacher.features(expected.teacher_images)
            kept = batch.teacher
            assert kept is not None
            assert torch.allclose(kept.logits, fresh.logits, atol=1e-6)
            assert torch.allclose(kept.embedding, fresh.embedding, atol=1e-6)
            for spot in (-1, 1):
                assert torch.allclose(kept.maps[spot], fresh.maps[spot], atol=1e-6)
            assert [values.numel() > 0 for values in kept.maps] == [False, True, False, True]


def test_a_view_is_computed_once_and_again_only_for_another_spot(
    make_teacher: MakeTeacher, make_batches: Callable[..., Batches], passes: list[int]
) -> None:
    views = views_of(make_teacher("abc"))
    for spots, expected in (
        ((), 2),
        ((), 2),
        ({-1}, 4),
        ((), 4),
        ({-1}, 4),
        ({3}, 4),
        ({1, 3}, 6),
        ({-3}, 6),
    ):
        for epoch in (0, 1):
            list(views.epoch(epoch, 0, spots, make_batches(stage=epoch)))
        assert len(passes) == expected


@pytest.mark.parametrize("on_disk", [False, True])
def test_maps_before_their_activation_are_kept_beside_the_others(
    make_teacher: MakeTeacher,
    make_batches: Callable[..., Batches],
    passes: list[int],
    tmp_path: Path,
    on_disk: bool,
) -> None:
    teacher = make_teacher("abc")

    def views() -> TeacherViews:
        return views_of(teacher, files=OutputFiles(tmp_path, ["k"]) if on_disk else None)

    first = views()
    for kept in (first, views() if on_disk else first):
        for spots in ({1}, {Preact(-1), 2}, {Preact(3)}):
            for batch in kept.epoch(0, 0, spots, make_batches()):
                found = batch.teacher
                assert found is not None
                expected = teacher.features(batch.teacher_images, preact=True)
                for spot in spots:
                    assert torch.allclose(output_at(found, spot), output_at(expected, spot), atol=1e-6)
    assert len(passes) == 2  # Preact(-1) of four maps is Preact(3), and what is there stays


def test_outputs_beyond_the_limit_are_refused(
    make_teacher: MakeTeacher, make_batches: Callable[..., Batches]
) -> None:
    batches = make_batches()
    size = 20 * (3 + 64) * 4  # images x (logits and embedding) x bytes
    list(views_of(make_teacher("abc"), limit=2 * size).epoch(0, 0, (), batches))
    with refused("cache-too-small"):
        list(views_of(make_teacher("abc"), limit=2 * size - 1).epoch(0, 0, (), batches))


@pytest.mark.parametrize("rounded", [False, True])
def test_outputs_on_disk_are_those_in_memory_and_are_computed_once_for_all(
    make_teacher: MakeTeacher,
    make_batches: Callable[..., Batches],
    passes: list[int],
    tmp_path: Path,
    rounded: bool,
) -> None:
    teacher = make_teacher("abc")
    in_memory = views_of(teacher, rounded=rounded)
    on_disk = [
        views_of(teacher, limit=0, rounded=rounded, files=OutputFiles(tmp_path, ["k"])) for _ in range(2)
    ]
    for views in (in_memory, *on_disk):
        del passes[:]
        for epoch in range(4):
            expected = list(in_memory.epoch(epoch, 1, {1}, make_batches()))
            found = list(views.epoch(epoch, 1, {1}, make_batches()))
            for one, other in zip(expected, found, strict=True):
                for first, second in zip(tensors_of(one), tensors_of(other), strict=True):
                    assert first.dtype == second.dtype == torch.float32
                    assert first.stride() == second.stride()
                    assert torch.equal(first, second)
        assert passes == ([] if views is on_disk[1] else [0, 1])
    assert on_disk[0].bytes == 0
    plain = views_of(teacher)
    pair = next(plain.epoch(0, 0, (), make_batches())), next(in_memory.epoch(0, 0, (), make_batches()))
    logits = [tensors_of(batch)[0] for batch in pair]
    assert torch.equal(logits[0].bfloat16().float() if rounded else logits[0], logits[1])


def test_maps_that_another_run_reads_are_added_to_those_on_disk(
    make_teacher: MakeTeacher, make_batches: Callable[..., Batches], passes: list[int], tmp_path: Path
) -> None:
    def read(*spots: int) -> TeacherViews:
        views = views_of(make_teacher("abc"), files=OutputFiles(tmp_path, ["k"]))
        list(views.epoch(0, 0, spots, make_batches()))
        return views

    earlier = read()
    read(-1)
    read(1)
    assert len(passes) == 3
    for spots in ((), (3,), (1, -1)):
        read(*spots)
    list(earlier.epoch(0, 0, (1,), make_batches()))  # what is there by now, and was not when it began
    assert len(passes) == 3
    assert len(list(tmp_path.iterdir())) == 1


def test_where_the_disk_is_full_outputs_stay_in_memory_or_are_refused(
    make_teacher: MakeTeacher,
    make_batches: Callable[..., Batches],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = OutputFiles(tmp_path, ["k"])
    list(views_of(make_teacher("abc"), files=files).epoch(0, 0, (), make_batches()))
    monkeypatch.setattr(mapped_rows, "SPARED", 1e30)
    plain, views = views_of(make_teacher("abc")), views_of(make_teacher("abc"), files=files)
    list(views.epoch(0, 0, (), make_batches()))  # what is there is read
    with pytest.warns(UserWarning, match=r"outputs cannot be kept in .* and stay in memory; free some space"):
        found = list(views.epoch(1, 0, (), make_batches()))
    for one, other in zip(plain.epoch(1, 0, (), make_batches()), found, strict=True):
        assert all(map(torch.equal, tensors_of(one), tensors_of(other)))
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.warns(UserWarning, match="cannot be kept"), refused("cache-too-small"):
        list(views_of(make_teacher("abc"), limit=1, files=files).epoch(1, 0, (), make_batches()))


def test_the_rows_of_outputs_that_lie_elsewhere_are_those_of_the_batches(
    make_batches: Callable[..., Batches],
) -> None:
    batches = make_batches()
    assert _rows_on(torch.device("cpu"), 1, 1, batches) is None
    elsewhere = SimpleNamespace(
        device=torch.device("cuda"), order=batches.order, batch_size=batches.batch_size
    )
    rows = _rows_on(torch.device("cpu"), 1, 1, elsewhere)  # type: ignore[arg-type]
    assert rows is not None
    for index, batch in zip(rows, batches.epoch(1, 1), strict=True):
        assert torch.equal(index, batch.numbers)


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_map_that_is_pooled_is_kept_where_a_loss_reads_it(
    make_teacher: MakeTeacher,
    make_batches: Callable[..., Batches],
    passes: list[int],
    tmp_path: Path,
    on_disk: bool,
) -> None:
    teacher, batches = make_teacher("abc"), make_batches()
    views = views_of(teacher, files=OutputFiles(tmp_path, ["k"]) if on_disk else None)
    for spots, expected in (((), 1), ({"pooled"}, 2), ((), 2), ({"pooled", 1}, 3), ({"pooled"}, 3)):
        for batch in views.epoch(0, 0, spots, batches):
            assert batch.teacher is not None
            kept = batch.teacher.pooled_map
            assert (kept is not None) == (len(passes) > 1)
            if kept is not None:
                fresh = teacher.features(batch.teacher_images).pooled_map
                assert torch.allclose(kept, fresh, atol=1e-6)  # type: ignore[arg-type]
        assert len(passes) == expected
