"""The two sides of an experiment, whose task may be a third party's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gkd.config.load import load
from gkd.core.errors import UserError
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.data import ImageSet
from gkd.experiment.sides import Sides, sides_of
from gkd.problems.problem import Problem, Source
from gkd.problems.task import Task
from gkd.training.caches import Caches
from tests.cli_helpers import write_bare
from tests.refusals import refused


class Unrelated(Task):
    def spaces(self, teacher: LabelSpace, student: LabelSpace) -> LabelRelation:
        raise KeyError("cat")


class Unmade(Task):
    def problems(self, teacher: Source, student: Source, seed: int = 0) -> Iterator[Problem]:
        yield from ()
        raise ZeroDivisionError


def test_what_a_third_partys_task_raises_is_a_sentence() -> None:
    experiment = load("cross_task/digits", ["method=student"]).experiment
    images: Any = type("Images", (), {"space": LabelSpace(["a", "b"])})()
    with refused("own-code-fails"):
        _ = Sides(experiment, Unrelated(experiment.task), images, images).relation
    with refused("own-code-fails"):
        list(Sides(experiment, Unmade(experiment.task), images, images).problems())


def test_methods_on_images_without_labels_are_suggested_where_there_are_some(tmp_path: Path) -> None:
    """Of networks of the user's own, too, on which no method is tried."""
    write_bare(tmp_path / "bare", 30)
    alone = ["task={name: cross_task, size: 5, shift: 5}", "student.network=no_such_module:net"]
    bare = [f"data.unlabelled.root={tmp_path / 'bare'}", "method.stages.distil.data=both"]
    for words, suggested in ((alone, False), ([*alone, *bare], True)):
        with pytest.raises(UserError, match="Methods that the classes allow") as caught:
            sides_of(load("cross_task/digits", ["method=kd", *words]).experiment).first_problem()
        assert ("unlabelled_both" in str(caught.value)) == suggested


def test_the_model_that_a_first_student_grows_out_of_keeps_no_classes_of_its_own() -> None:
    words = ["teacher={network: resnet8, checkpoint: w.safetensors, classes: null}", "method=replay"]
    resolved = load("incremental/digits", [*words, "task.memory_per_class=5"])
    with refused("other-classes") as caught:
        sides_of(resolved.experiment).first_problem()
    assert "teacher.pretrained" in str(caught.value)


def test_the_rows_of_a_grid_have_their_images_in_common_and_others_have_their_own() -> None:
    caches = Caches()

    def images(*overrides: str) -> ImageSet:
        experiment = load("cross_task/digits", ["data.per_class=9", *overrides]).experiment
        return sides_of(experiment, caches).first_problem().student.train

    assert images("method=sp") is images("method=pkt")
    assert images("run.seed=1").fingerprint() != images("run.seed=2").fingerprint()
    assert images("run.seed=1").fingerprint() == images("run.seed=1").fingerprint()
    assert images("data.per_class=8").fingerprint() != images().fingerprint()
    with refused("method-not-applicable"):  # whatever other rows have passed
        images("method=kd", "task.shift=5")
