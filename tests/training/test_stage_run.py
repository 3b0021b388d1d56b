"""One stage: which parts it trains, and what it takes over from the stage before."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gkd.training.loop
import gkd.training.stage_run
from gkd.config.shipped import load_method
from gkd.core.labels import LabelSpace
from gkd.data import ImageSet, StreamedPixels
from gkd.data.decoding import Form
from gkd.distill.output_files import OutputFiles
from gkd.methods.method import Method
from gkd.storage.weights import copy_state
from gkd.training.caches import Caches
from gkd.training.interrupt import Interrupted
from gkd.training.loop import one_step
from gkd.training.settings import Settings
from gkd.training.stage_run import Position, StageRun, State, _forms
from tests.refusals import refused
from tests.training_helpers import EAGER, SETTINGS, STEPS, Trainer, method_of, same


def test_only_the_named_parts_are_trained(trainer: Callable[..., Trainer]) -> None:
    content = method_of(cross_entropy={}).model_dump()
    content["stages"]["one"]["train"] = ["head"]
    run = trainer()
    outcome = run.fit(Method.model_validate(content), {"one": 1})
    for name, before in run.student().named_parameters():
        assert torch.equal(outcome.last[name], before) == (not name.startswith("fc."))


def test_a_stage_that_has_nothing_to_train_is_refused(trainer: Callable[..., Trainer]) -> None:
    """The tuples' loss does not reach the head, so such a stage is a mistake in the config."""
    content = method_of(tuples={}).model_dump()
    content["stages"]["one"]["train"] = ["head"]
    with refused("part-not-reached"):
        trainer().fit(Method.model_validate(content), {"one": 1})


def test_one_step_tries_a_stage(trainer: Callable[..., Trainer]) -> None:
    run = trainer()
    method = load_method("refilled")
    teacher = run.make_teacher(list(run.problem.relation.teacher))
    for number, (name, stage) in enumerate(method.stages.items()):
        tried = one_step(name, stage, run.student(), teacher, run.problem, SETTINGS, Position(stage=number))
        assert tried.seconds > 0
        assert math.isfinite(tried.loss)
        assert tried.steps == STEPS
        assert (tried.pulls is None) == (name == "embedding")  # which has no cross-entropy


@pytest.mark.parametrize("stop", [None, 1, STEPS + 1])
def test_a_paraphraser_is_trained_first_and_then_kept(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, stop: int | None
) -> None:
    """The student waits while the paraphraser is trained; then that is a constant, also after a stop."""
    method = load_method("ft")
    ends: list[tuple[State, State]] = []
    train_stage = gkd.training.loop._train_stage

    def watched(run: Any, *arguments: Any) -> None:
        train_stage(run, *arguments)
        ends.append((copy_state(run.student), copy_state(run.distiller.adapters)))

    monkeypatch.setattr(gkd.training.loop, "_train_stage", watched)
    run = trainer()
    epochs = {"paraphraser": 1, "distil": 1}
    if stop is not None:
        with pytest.raises(Interrupted):
            run.fit(
                method, epochs, at=lambda done: signal.raise_signal(signal.SIGINT) if done == stop else None
            )
    outcome = run.fit(method, epochs)
    initial = run.student().state_dict()
    assert all(torch.equal(ends[0][0][name], initial[name]) for name in initial)
    paraphrased = {name for name in ends[-1][1] if ".encoder." in name or ".decoder." in name}
    assert len(paraphrased) == 12
    assert all(torch.equal(ends[0][1][name], ends[-1][1][name]) for name in paraphrased)
    assert (
        any(not torch.equal(ends[0][1][n], ends[-1][1][n]) for n in ends[0][1] if n not in paraphrased)
        or stop
    )
    assert [record["stage"] for record in outcome.records] == ["paraphraser", "distil"]


def test_a_term_that_does_not_fit_is_refused_before_the_first_stage(trainer: Callable[..., Trainer]) -> None:
    content = load_method("ft").model_dump()
    for stage in content["stages"].values():
        stage["terms"]["ft"]["at"] = {"student": 8, "teacher": -1}
    run = trainer()
    with refused("spot-out-of-range"):
        run.fit(Method.model_validate(content), {"paraphraser": 1, "distil": 1})
    assert not list(run.folder.iterdir())


@pytest.mark.parametrize(("second", "kept"), [({}, True), ({"dim": 7}, False), ({"at": [2, 2]}, False)])
def test_a_terms_module_passes_on_whole_or_not_at_all(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, second: dict[str, Any], kept: bool
) -> None:
    def stage(loss: dict[str, Any]) -> dict[str, Any]:
        return {
            "epochs": 1,
            "terms": {"cross_entropy": {}, "extra": loss},
            "optimiser": {"schedule": "constant"},
        }

    if "at" in second:
        spots = [{"student": number, "teacher": number} for number in (1, second["at"][0])]
        losses = [{"loss": "fitnet", "at": at} for at in spots]
    else:
        losses = [{"loss": "cc_neighbour", "dim": 5}, {"loss": "cc_neighbour", "dim": 5, **second}]
    method = Method.model_validate(
        {
            "name": "m", "paper": "ours", "summary": "",
            "stages": {"one": stage(losses[0]), "two": stage(losses[1])},
        }
    )  # fmt: skip
    states: list[State] = []
    train_stage = gkd.training.loop._train_stage

    def watched(run: Any, *arguments: Any) -> None:
        states.append(copy_state(run.distiller.adapters))
        train_stage(run, *arguments)
        states.append(copy_state(run.distiller.adapters))

    monkeypatch.setattr(gkd.training.loop, "_train_stage", watched)
    trainer().fit(method, {"one": 1, "two": 1})
    _, after_first, before_second, _ = states
    same_shapes = [key for key in after_first if after_first[key].shape == before_second[key].shape]
    equal = [key for key in same_shapes if torch.equal(after_first[key], before_second[key])]
    trained = [key for key in same_shapes if "num_batches" not in key and "running" not in key]
    assert all(key in equal for key in trained) if kept else not any(key.endswith("weight") for key in equal)


ON_SPOTS = {"kd": {}, "at": {"at": {"student": -1, "teacher": -1}, "weight": 10}}


def with_views(**changes: Any) -> Settings:
    """Settings with caches of their own, as a new process has them."""
    return replace(SETTINGS, **{"views": 2, "caches": Caches(), **changes})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_ends_with_the_same_bits_wherever_outputs_are_kept(
    trainer: Callable[..., Trainer], tmp_path: Path, dtype: torch.dtype
) -> None:
    """Also where another run computed them: of another seed, or stopped in an epoch."""
    method, disk = method_of(**ON_SPOTS), tmp_path / "kept"
    in_memory = trainer("memory").fit(method, {"one": 3}, settings=with_views(dtype=dtype))
    first = trainer("first").fit(method, {"one": 3}, settings=with_views(dtype=dtype, outputs_folder=disk))
    assert same(first, in_memory)
    written = {path: path.stat().st_mtime_ns for path in disk.iterdir()}
    assert len(written) == 2
    stopped = trainer("stopped")
    eager = replace(EAGER, views=2, dtype=dtype, outputs_folder=disk)
    with pytest.raises(Interrupted):
        stopped.fit(
            method, {"one": 3}, settings=replace(eager, caches=Caches()),
            at=lambda done: signal.raise_signal(signal.SIGINT) if done == STEPS + 1 else None,
        )  # fmt: skip
    assert same(stopped.fit(method, {"one": 3}, settings=replace(eager, caches=Caches())), in_memory)
    other = trainer("seed").fit(
        method, {"one": 3}, settings=with_views(dtype=dtype, outputs_folder=disk, seed=5)
    )
    assert not torch.equal(other.last["fc.weight"], in_memory.last["fc.weight"])
    assert {path: path.stat().st_mtime_ns for path in disk.iterdir()} == written


def test_rounded_outputs_change_a_float32_run_and_no_other(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    def last(name: str, **changes: Any) -> torch.Tensor:
        outcome = trainer(name).fit(method_of(kd={}), {"one": 1}, settings=with_views(**changes))
        return outcome.last["fc.weight"]

    plain, rounded = last("plain"), last("rounded", outputs_rounded=True)
    assert not torch.equal(plain, rounded)
    assert torch.equal(last("disk", outputs_rounded=True, outputs_folder=tmp_path / "kept"), rounded)
    half = [last(f"bf16{each}", dtype=torch.bfloat16, outputs_rounded=each) for each in (False, True)]
    assert torch.equal(*half)


def test_outputs_are_known_by_all_that_they_depend_on(
    trainer: Callable[..., Trainer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer()

    def key(images: str = "bcd", teacher: Mapping[str, Any] | None = None, **changes: Any) -> str:
        settings = with_views(outputs_folder=tmp_path, **changes)
        problem = run.problem if images == "bcd" else trainer(images, student=images).problem
        made = run.make_teacher(list(problem.relation.teacher), **(teacher or {}))
        stage = method_of(kd={}).stages["one"]
        started = StageRun("one", stage, 1, run.student(), made, problem, settings, Position())
        files = started.teacher_views["teacher"].files
        assert isinstance(files, OutputFiles)
        return files.key

    plain = key()
    same_outputs = (
        {"seed": 9},
        {"views": 7},
        {"batch_size": 4},
        {"cache_bytes": 1.0},
        {"checkpoint_seconds": 1.0},
        {"augment": "flip", "teacher_augment": "crop-flip"},
    )
    for changes in same_outputs:
        assert key(**changes) == plain, changes
    other_outputs: tuple[dict[str, Any], ...] = (
        {"teacher": {"seed": 8}}, {"teacher": {"mean": (0.1,)}}, {"images": "bce"}, {"augment": "crop"},
        {"dtype": torch.bfloat16}, {"outputs_rounded": True}, {"teacher_augment": "none"}, {"own_draws": True},
        {"evaluate_batch_size": 3},
    )  # fmt: skip
    others = [key(**changes) for changes in other_outputs]
    assert key(dtype=torch.bfloat16, outputs_rounded=True) == key(dtype=torch.bfloat16)
    monkeypatch.setattr("gkd.training.stage_run.source_of_outputs", lambda: "edited")
    others.append(key())
    monkeypatch.undo()
    monkeypatch.setattr("gkd.training.stage_run.version", lambda name: "of another torchvision")
    others.append(key())
    monkeypatch.undo()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    others.append(key())
    assert len({plain, *others}) == 1 + len(others)


def test_outputs_of_streamed_images_are_known_by_how_those_are_resized() -> None:
    """Their fingerprint is of the files and of the size alone."""

    def streamed(form: Form) -> StreamedPixels:
        return StreamedPixels(Path("photos"), ("a.png",), form=form, size=(8, 8), workers=0, stamp="s")

    sets = [
        ImageSet(streamed(Form(3, 8, fit=one)), torch.zeros(1, dtype=torch.int64), LabelSpace(["a"]),
                 teacher_images=streamed(Form(3, 8, fit=other)))
        for one in ("stretch", "crop") for other in ("stretch", "crop")
    ]  # fmt: skip
    assert len({images.fingerprint() for images in sets}) == 1
    assert len({tuple(_forms(images)) for images in sets}) == 4
