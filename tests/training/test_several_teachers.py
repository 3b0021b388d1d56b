"""Several named teachers in the training loop: their views, their kept outputs, and draws that go on after a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import ImageSet
from gkd.distill.distiller import Distiller
from gkd.distill.teacher import Teacher
from gkd.methods.method import Method
from gkd.models import build_network
from gkd.problems.problem import NamedTeacher, Problem, Source
from gkd.training.caches import Caches
from gkd.training.loop import check_method, fit
from gkd.training.settings import Settings
from gkd.training.stage_run import Position, StageRun
from tests.refusals import refused
from tests.training_helpers import EAGER, SETTINGS, Outcome, Watched, method_of, same

OVER_BOTH = method_of(
    cross_entropy={},
    kd={"teacher": "near"},
    regression={"teacher": "all", "combine": "drop", "balance": "phi-s", "projector": "linear"},
)


@dataclass
class Several:
    """A student of b, c, d; one teacher of a, b, c under another normalisation, and one of x, y on larger images."""

    problem: Problem
    make_teacher: Callable[..., Teacher]
    folder: Path

    def teachers(self) -> dict[str, Teacher]:
        return {
            "near": self.make_teacher("abc", mean=(0.4,)),
            "far": self.make_teacher("xy", seed=8),
        }

    def student(self) -> nn.Module:
        torch.manual_seed(SETTINGS.seed)
        return build_network("resnet8", num_classes=3, in_channels=1)

    def fit(
        self, settings: Settings, at: Callable[[int], object] | None = None, name: str = "run"
    ) -> Outcome:
        reporter = Watched(at)
        last, best, position = fit(
            self.student(),
            self.teachers(),
            self.problem,
            OVER_BOTH,
            {"one": 2},
            settings,
            self.folder / name,
            reporter,
        )
        return Outcome(last, best, position, [], reporter.steps)

    def run(self, settings: Settings, method: Method = OVER_BOTH) -> StageRun:
        torch.manual_seed(0)
        (stage,) = method.stages.values()
        return StageRun("one", stage, 2, self.student(), self.teachers(), self.problem, settings, Position())


@pytest.fixture
def several(
    make_problem: Callable[..., Problem], make_teacher: Callable[..., Teacher], tmp_path: Path
) -> Several:
    problem = make_problem("abc", "bcd")

    def seen(images: ImageSet) -> ImageSet:
        return replace(images, views={"far": images.images.repeat_interleave(2, 2).repeat_interleave(2, 3)})

    source = problem.student
    student = Source(seen(source.train), seen(source.validation), seen(source.test))
    teachers = {"near": NamedTeacher(problem.relation, problem.teacher)}
    teachers["far"] = NamedTeacher(LabelRelation(LabelSpace([*"xy"]), problem.relation.student), student)
    return Several(replace(problem, student=student, teachers=teachers), make_teacher, tmp_path)


def test_each_teacher_sees_its_own_view_under_its_own_normalisation(several: Several) -> None:
    batch = next(several.run(SETTINGS).epoch_batches())
    torch.testing.assert_close(batch.views["near"] * 0.25 + 0.4, batch.images * 0.25 + 0.5)  # of one crop
    batch = next(several.run(replace(SETTINGS, augment="none")).epoch_batches())
    assert batch.view is None
    assert batch.views["far"].shape[-2:] == (16, 16)
    torch.testing.assert_close(batch.views["far"][..., ::2, ::2], batch.images)
    one = method_of(cross_entropy={}, sp={"teacher": "far"})
    run = several.run(SETTINGS, one)
    assert list(next(run.epoch_batches()).views) == ["far"]  # what no term reads is not made
    assert run.distiller.sides["far"].relation.kind == "disjoint"


def test_draws_of_dropped_teachers_go_on_after_a_death_without_warning(several: Several) -> None:
    whole = several.fit(EAGER, name="whole")
    for stop in (3, 6):

        def die(done: int, stop: int = stop) -> None:
            if done == stop:
                raise RuntimeError("killed")

        with pytest.raises(RuntimeError, match="killed"):
            several.fit(EAGER, die, name=f"killed at {stop}")
        torch.manual_seed(123)  # as in a new process
        assert same(whole, several.fit(EAGER, name=f"killed at {stop}")), stop


def test_outputs_kept_in_memory_or_on_disk_are_those_of_each_step(
    several: Several, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(**changes: object) -> list[dict[str, torch.Tensor]]:
        run = several.run(replace(SETTINGS, views=1, caches=Caches(), **changes))  # type: ignore[arg-type]
        torch.manual_seed(4)
        run.distiller.eval()
        return [run.distiller(batch) for epoch in (0, 1) for batch in epoch_of(run, epoch)]

    def epoch_of(run: StageRun, epoch: int) -> list:
        run.position.epoch = epoch
        batches = list(run.epoch_batches())
        kept = set(run.teacher_views)
        assert all(set(batch.outputs) == kept for batch in batches)
        assert all(batch.teacher is None for batch in batches)
        return batches

    memory = losses()
    disk, again = losses(outputs_folder=tmp_path / "kept"), losses(outputs_folder=tmp_path / "kept")
    assert len(list((tmp_path / "kept").glob("*.safetensors"))) == 2  # a file a teacher, for one view
    monkeypatch.setattr(Distiller, "read_clean", [])
    fresh = losses()
    for kept, first, second, computed in zip(memory, disk, again, fresh, strict=True):
        for name, value in computed.items():
            torch.testing.assert_close(kept[name], value, rtol=1e-5, atol=1e-5)
            assert torch.equal(kept[name], first[name])
            assert torch.equal(kept[name], second[name])


def test_what_is_kept_of_a_teacher_is_shared_with_a_run_of_it_alone(several: Several, tmp_path: Path) -> None:
    settings = replace(SETTINGS, views=1, outputs_folder=tmp_path / "kept")
    files = several.run(settings).teacher_views["far"].files
    alone = replace(several, problem=several.problem.of_teacher("far"))
    teacher = several.teachers()["far"]
    (stage,) = method_of(cross_entropy={}, sp={}).stages.values()
    run = StageRun("one", stage, 2, several.student(), teacher, alone.problem, settings, Position())
    assert files is not None
    assert run.teacher_views["teacher"].files is not None
    assert run.teacher_views["teacher"].files.key == files.key


def test_a_term_is_checked_against_each_teacher_that_it_reads(several: Several) -> None:
    check_method(OVER_BOTH, several.student(), several.teachers(), several.problem)
    narrow = method_of(regression={"teacher": "all", "projector": "none"})
    check_method(narrow, several.student(), several.teachers(), several.problem)
    wide = build_network("resnet8x4", num_classes=2, in_channels=1)
    with refused("other-widths"):
        teachers = {**several.teachers(), "far": Teacher(wide, LabelSpace([*"xy"]))}
        check_method(narrow, several.student(), teachers, several.problem)
    with refused("unknown-teacher"):
        check_method(
            method_of(sp={"teacher": "near"}),
            several.student(),
            {"far": several.teachers()["far"]},
            several.problem,
        )


def test_the_next_stage_takes_over_the_projector_of_each_teacher_that_a_term_still_reads(
    several: Several,
) -> None:
    def projectors(run: StageRun) -> list[list[torch.Tensor]]:
        return [list(adapter.parameters()) for adapter in run.distiller.adapters.values()]

    term = {"projector": "linear"}
    both = method_of(cross_entropy={}, regression={**term, "teacher": "all"})
    before, after = several.run(SETTINGS, both), several.run(SETTINGS, both)
    for parameters in projectors(before):
        for values in parameters:
            torch.nn.init.ones_(values)
    after.inherit(before)
    assert len(projectors(after)) == 2
    assert all(bool((values == 1).all()) for parameters in projectors(after) for values in parameters)
    near, far = (
        several.run(SETTINGS, method_of(regression={**term, "teacher": name})) for name in ("near", "far")
    )
    kept = [values.clone() for values in projectors(far)[0]]
    torch.nn.init.ones_(projectors(near)[0][0])
    far.inherit(near)
    assert all(map(torch.equal, projectors(far)[0], kept))
