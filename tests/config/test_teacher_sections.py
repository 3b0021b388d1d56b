"""Several teachers in a config: their names, what goes together, which are read, and what names the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gkd.config.resolve import Resolved
from gkd.config.teacher_sections import alone_with, named_teachers_read, teacher_names
from gkd.config.trust import check_trust
from tests.config_helpers import tiny
from tests.refusals import refused

A: dict[str, Any] = {"network": "resnet20", "image_size": 12}
B: dict[str, Any] = {"network": "resnet8", "expect": "50"}
OF_A, OF_ALL = ("method.stages.distil.terms.sp.teacher=" + name for name in ("a", "all"))


def two(*words: str, **sections: Any) -> Resolved:
    return tiny(*words, **{"teacher": None, "teachers": {"a": A, "b": B}, "method": "sp", **sections})


def test_terms_read_the_first_teacher_or_those_that_they_name() -> None:
    assert teacher_names(two().experiment) == ("a", "b")
    assert named_teachers_read(two().experiment) == ("a",)
    assert named_teachers_read(two("method.stages.distil.terms.sp.teacher=[b, a]").experiment) == ("a", "b")
    assert named_teachers_read(two(OF_ALL, "teachers.a=null").experiment) == ("b",)
    assert named_teachers_read(two("method=student").experiment) == ()
    assert teacher_names(tiny().experiment) == ("teacher",)
    tiny("method=sp", "method.stages.distil.terms.sp.teacher=teacher")


@pytest.mark.parametrize(
    "words",
    [
        [OF_A.replace("=a", "=c")],
        ["teacher={network: resnet8}"],
        ["teachers={all: {network: resnet8}}"],
        ["teachers={previous: {network: resnet8}}"],
        ["teachers={1st: {network: resnet8}}"],
        ["teachers=3"],
        ["method.stages.distil.terms.sp.teacher=3"],
        ["task={name: incremental, base: 5, increment: 5}"],
    ],
)
def test_what_does_not_go_together_is_a_sentence(words: list[str]) -> None:
    with refused("invalid-config"):
        two(*words)


def test_a_name_where_there_is_one_teacher_without() -> None:
    with refused("invalid-config"):
        tiny("method=sp", OF_A)


def test_each_teacher_alone_has_its_own_view_or_that_of_the_data() -> None:
    experiment = two("data.teacher_view={image_size: 16, augment: none}").experiment
    for name, size in (("a", 12), ("b", 16)):
        alone = alone_with(experiment, name)
        assert alone.teacher is not None
        assert alone.data.teacher_view is not None
        assert (alone.data.teacher_view.image_size, alone.data.teacher_view.augment) == (size, "none")
        assert alone.teacher.image_size is None
        assert not alone.teachers


def test_the_teachers_that_are_read_name_a_run_with_their_order(tmp_path: Path) -> None:
    first = two(OF_A).identity
    assert two(OF_A, "teachers.b=null").identity == first
    assert two(OF_A, "teachers.b.network=resnet14").identity == first
    assert two(OF_A, "teachers.a.network=resnet14").identity != first
    assert two(OF_A, "teachers.a.expect=60").identity == first
    both = two(OF_ALL).identity
    assert both != first
    assert two(OF_ALL, teachers={"b": B, "a": A}).identity != both
    assert two("method=student").identity == tiny("method=student").identity
    for name, value in (("w", 0.0), ("v", 1.0)):
        save_file({"x": torch.full((2,), value)}, tmp_path / f"{name}.safetensors")
    given = [
        two(OF_ALL, f"teachers.b.checkpoint={tmp_path / name}.safetensors").identity for name in ("w", "v")
    ]
    assert len({*given, both}) == 3
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "w.safetensors").rename(tmp_path / "elsewhere" / "x.safetensors")
    assert two(OF_ALL, f"teachers.b.checkpoint={moved}").identity == given[0]


def test_another_network_of_a_teacher_drops_the_options_of_the_former() -> None:
    teachers = {"a": {"network": "wrn_16_1", "options": {"head": "cosine"}}}
    assert two("teachers.a.network=resnet8", teachers=teachers).experiment.teachers["a"].options == {}


def test_what_a_run_folder_names_is_not_trusted_for_any_teacher() -> None:
    with refused("untrusted-import"):
        check_trust({"teachers": {"a": {"network": "my.module:net", "sha256": "sha256:ab"}}}, frozenset())
    check_trust({"teachers": {"a": {"network": "resnet8", "sha256": "sha256:ab"}}}, frozenset())
