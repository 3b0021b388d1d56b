"""The configuration reference: every key of the schema, in true words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from gkd.config.load import load
from gkd.config.resolve import Resolved
from gkd.config.schema import Experiment
from tests.scripts import script


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return script("docs/reference.py")


def test_types_defaults_and_limits_are_in_words(reference: ModuleType) -> None:
    keys = {key.dotted: key for keys in reference.sections().values() for key in keys}
    for dotted, type_, default in (
        ("data.name", "text", "required"),
        ("data.batch_size", "whole number, 2 or more", "`64`"),
        ("data.mean", "list of number", "–"),
        ("data.validation", "section", "`{fraction: 0.1}`"),
        ("data.validation.fraction", "number, above 0, below 1", "–"),
        ("teacher.train.epochs", "whole number, 1 or more", "`200`"),
        ("teacher.checkpoint", "path", "–"),
        ("run.precision", "`auto` or `float32` or `bf16`", "`auto`"),
        ("run.seed", "whole number, 0 or more, below 2^63", "`0`"),
        ("run.deterministic", "true or false", "`false`"),
        ("method.stages", "sections by name", "required"),
        ("method.stages.STAGE.terms.TERM.weight", "number or section", "`1.0`"),
        ("compare.methods", "list of (text or section)", "required"),
        ("compare.methods[].label", "text", "required"),
        ("optimiser.lr", "number, above 0", "`0.05`"),
    ):
        assert (keys[dotted].type, keys[dotted].default) == (type_, default), dotted
    assert keys["teacher.data"].meaning.endswith("Keys of `data`.")
    assert keys["student.network"].meaning == keys["teacher.network"].meaning
    assert all(len(key.meaning) > 5 for key in keys.values())


def test_a_field_without_a_meaning_is_refused(reference: ModuleType) -> None:
    class Half(BaseModel):
        """A section.

        Attributes:
            told, as_well2: what it
                is.
        """

        told: int = Field(default=1, ge=0)
        as_well2: int = 1
        untold: int = 2

    assert reference.meaning_of(Half, "told") == reference.meaning_of(Half, "as_well2") == "what it is."
    with pytest.raises(LookupError, match="Half says nothing of untold"):
        reference.meaning_of(Half, "untold")


def keys_of(node: Any, dotted: str = "") -> Iterator[str]:
    """The dotted keys of nested mappings, stages and terms under the reference's placeholders."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        below = f"{dotted}.{key}" if dotted else str(key)
        below = re.sub(r"^method\.stages\.[^.]+", "method.stages.STAGE", below)
        below = re.sub(r"(\.STAGE\.terms)\.[^.]+", r"\1.TERM", below)
        yield below
        yield from keys_of(value, below)


# Keys that are a network's, an optimiser's, a grid's or a source's own words, and the names of stages and terms.
OPEN = re.compile(
    r"(student|teacher|optimiser)\.options\.|method\.(sources|network)\.|compare\.|\.(STAGE|TERM)$"
)


@pytest.mark.parametrize("config", ["cross_task/digits", "few_shot/digits", "incremental/digits"])
def test_every_key_of_a_resolved_config_is_there(reference: ModuleType, config: str) -> None:
    resolved = load(config, ["teacher={network: resnet8, data: {name: digits}}"])
    rows = [
        key
        for title, keys in reference.sections().items()
        for key in keys
        if not title.startswith("task: ") or title == f"task: {resolved.experiment.task.name}"
    ]
    options = {
        f"method.stages.STAGE.terms.TERM.{option}"
        for stage in resolved.experiment.method.stages.values()
        for term in stage.terms.values()
        for option in term.entry.options
    }
    homes = {key.dotted: home[1] for key in rows if (home := re.search(r"Keys of `([^`]+)`", key.meaning))}
    shown = {
        key
        for key in keys_of(yaml.safe_load(resolved.annotated_yaml()))
        if "." in key and not OPEN.search(key)
    }
    for dotted in sorted(homes, key=len):  # a section is told once, and elsewhere by the name of its home
        shown = {
            f"{homes[dotted]}.{key.removeprefix(f'{dotted}.')}" if key.startswith(f"{dotted}.") else key
            for key in shown
        }
    assert shown - options - {key.dotted for key in rows} == set()
    assert len(shown) > 50


def another(value: Any, type_: str) -> Any:
    """Another value of a key that the schema would take, or None where that is not to be guessed."""
    if type_ == "true or false":
        return not value
    if type_.startswith("`"):
        words = [yaml.safe_load(word) for word in re.findall(r"`([^`]+)`", type_)]
        return next((word for word in words if word != value), None)
    if type_.startswith("whole number"):
        return (value or 2) + 1
    return (value or 1.0) / 2 if type_.startswith("number") else None


def changed(section: BaseModel, parts: list[str], value: Any) -> BaseModel | None:
    """The section with another value under a dotted key; None where a section on the way is not set."""
    name, *below = parts
    if not below:
        return section.model_copy(update={name: value})
    inner = getattr(section, name, None)
    inner = changed(inner, below, value) if isinstance(inner, BaseModel) else None
    return None if inner is None else section.model_copy(update={name: inner})


def value_at(section: Any, parts: list[str]) -> Any:
    for part in parts:
        section = getattr(section, part, None)
    return section


def test_what_is_said_to_name_a_run_names_it_and_nothing_else_does(reference: ModuleType) -> None:
    """Each key of the sections but the method's, given another value: the identity is another, or it is not."""
    view = "data.teacher_view={augment: none}"
    resolved = load("cross_task/digits", ["method=kd", view, "teacher.data={name: digits, download: true}"])
    tried = set()
    for title, keys in reference.sections().items():
        if (title.startswith("task: ") and title != "task: cross_task") or title in ("method", "optimiser"):
            continue
        for key in keys:
            parts = key.dotted.split(".")
            value = another(value_at(resolved.experiment, parts), key.type)
            experiment = None if value is None else changed(resolved.experiment, parts, value)
            if isinstance(experiment, Experiment):
                other: Resolved = replace(resolved, experiment=experiment)
                assert (other.identity != resolved.identity) == (key.names_a_run == "yes"), key
                tried.add(key.dotted)
    assert len(tried) > 30
    assert {
        "data.workers",
        "run.seed",
        "run.epochs",
        "teacher.train.epochs",
        "data.teacher_view.draws",
    } <= tried
