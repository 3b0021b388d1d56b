"""Mistakes in a config: all at once, each with its path, and the closest match to what is unknown."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from gkd.config.layers import Layer, set_dotted
from gkd.config.resolve import resolve
from gkd.core.errors import UserError
from tests.config_helpers import TINY, tiny
from tests.refusals import refused


def mistakes(*overrides: str, **sections: Any) -> list[str]:
    """The lines of the refusal: a mistake each, of the form ``a.b.c: what``."""
    with pytest.raises(UserError) as caught:
        tiny(*overrides, **sections)
    lines = str(caught.value).splitlines()
    return [line.removeprefix("tiny: ").strip() for line in (lines[1:] if len(lines) > 1 else lines)]


def test_every_mistake_is_reported_at_once_with_its_path() -> None:
    lines = mistakes(
        "optimiser.lr=fast",
        "run.epochs=0",
        "student=resnet8",
        "method.stages.embedding.terms.tuples.weight=-1",
        "method.stages.classifier.start=lst",
        "task.shift=-1",
        "runn.seed=1",
    )
    paths = [line.split(": ")[0] for line in lines]
    stages = "method.stages"
    assert sorted(paths) == sorted(
        [
            "optimiser.lr", "run.epochs", "student",
            f"{stages}.embedding.terms.tuples.weight", f"{stages}.classifier.start", "task.shift", "runn",
        ]
    )  # fmt: skip
    assert any(line.endswith("got 'fast'.") for line in lines)


def test_several_mistakes_in_one_section_are_reported_at_once() -> None:
    lines = mistakes("data.name=digit", "data.augment=corp", "data.batch_size=0")
    assert {line.split(": ")[0] for line in lines} == {"data.name", "data.augment", "data.batch_size"}


def test_several_mistakes_in_one_term_are_reported_at_once() -> None:
    term = "method.stages.embedding.terms.tuples"
    text = "\n".join(mistakes(f"{term}.wieght=1", f"{term}.margn=1", f"{term}.rows=some"))
    for name in ("wieght", "margn", "rows"):
        assert name in text


@pytest.mark.parametrize(
    ("override", "path", "close"),
    [
        ("sudent.network=resnet8", "sudent", "student"),
        ("data.batch_sise=3", "data.batch_sise", "batch_size"),
        ("data.validation.per_clas=3", "data.validation.per_clas", "per_class"),
        ("teacher.train.epoch=3", "teacher.train.epoch", "epochs"),
        ("teacher.train.optimiser.lrr=3", "teacher.train.optimiser.lrr", "lr"),
        ("method.stages.embedding.shre=1", "method.stages.embedding.shre", "share"),
        ("method.stages.embedding.terms.tuples.margn=1", "method.stages.embedding.terms.tuples", "margin"),
        ("optimiser.momentun=0", "optimiser.momentun", "momentum"),
        ("task.shfit=1", "task.shfit", "shift"),
        ("data.name=digit", "data", "digits"),
        ("data.augment=corp", "data", "crop"),
        ("run.precision=fp16", "run.precision", "bf16"),
    ],
)
def test_an_unknown_key_or_name_meets_its_closest_match(override: str, path: str, close: str) -> None:
    line = mistakes(override)[0]
    assert line.startswith(path)
    assert f"Did you mean {close!r}?" in line or f"'{close}'" in line


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_an_unknown_network_is_refused_with_the_other_mistakes(side: str) -> None:
    lines = mistakes(f"{side}.network=resnet7", "run.seed=-1")
    assert len(lines) == 2
    assert any(line.startswith(f"{side}.network: ") and "resnet" in line for line in lines)


def test_a_mistake_in_one_stage_names_that_stage() -> None:
    with refused("invalid-config"):
        tiny("method.stages.embedding.optimiser.lr=x")
    with refused("invalid-config") as told:
        tiny("optimiser.milestones=[a]")
    assert "\n" not in str(told.value)


def test_a_wrong_optimiser_key_is_told_once() -> None:
    with refused("invalid-config") as told:
        tiny("optimiser.lrr=1")
    assert "\n" not in str(told.value)


WRONG = (
    None, True, -1, 10**400, 2**63, 1e300, float("nan"), float("inf"), "", "a\0b", "x" * 3000, "~nobody-here/x",
    [], [[1]], {}, {"a": 1}, {1: None}, {"": {"b": 1}}, b"\xff", datetime.date(2020, 1, 1), {1},
)  # fmt: skip


def keys(section: dict[str, Any], above: str = "") -> Iterator[str]:
    """Every dotted key of nested sections."""
    for key, value in section.items():
        yield f"{above}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{above}{key}.")


def with_value(dotted: str, value: object) -> dict[str, Any]:
    sections: dict[str, Any] = {**TINY, "method": {"name": "sakd"}}
    content: dict[str, Any] = copy.deepcopy(sections)
    set_dotted(content, dotted, value) if "." in dotted else content.update({dotted: value})
    return content


def test_no_value_of_any_key_ends_in_a_traceback_or_a_word_of_python() -> None:
    resolved = resolve("tiny", [Layer("experiment", {**TINY, "method": "sakd"})])
    every = list(
        keys(
            resolved.experiment.model_dump(mode="python", exclude={"method": {"sources", "paper", "summary"}})
        )
    )
    assert len(every) > 150
    number = 0
    for place, dotted in enumerate(every):
        for value in WRONG[place % 9 :: 9]:  # a ninth of the values at each key
            try:
                content = with_value(dotted, value)
            except (AttributeError, TypeError):
                continue  # below a plain value
            number += 1
            try:
                result = resolve("tiny", [Layer("experiment", content)])
                yaml.safe_load(result.annotated_yaml())
                assert result.identity
            except UserError as error:
                sentence = str(error)
                assert "Input should be a valid d" not in sentence
                assert "NoneType" not in sentence.replace("got None", "")
                assert max(map(len, sentence.splitlines())) < 5000
    assert number > 300


@pytest.mark.parametrize(
    "override",
    [
        "optimiser.lr=1e300", "optimiser.milestones=[.nan]", "method.stages.embedding.epochs=1e300",
        "run.epochs=9223372036854775808", "run.threads=99999999999999999999", 'run.out="a\\0b"',
        f"student.checkpoint={'a' * 300}", "data.memory_gb=.inf", "method.stages.embedding.train=3",
        "method.stages.embedding.terms.tuples.loss=[a]", "method.sources=3",
        "data.mean=3", "method=~nobody-here/mine.yaml", "compare={methods: [student], seeds: [-1]}",
        "compare={methods: [student], seeds: [a]}",
    ],
)  # fmt: skip
def test_vast_numbers_and_other_kinds_are_told_in_words_of_the_config(override: str) -> None:
    with refused("invalid-config" if "nobody" not in override else "method-file-missing") as caught:
        tiny(override)
    assert str(caught.value).count("\n") == 0


def test_a_vast_number_is_told_once_beside_other_mistakes() -> None:
    lines = mistakes("optimiser.lr=1e300", "run.epochs=0", "run.threads=0")
    assert sorted(line.split(": ")[0] for line in lines) == ["optimiser.lr", "run.epochs", "run.threads"]
    assert tiny("optimiser={name: RMSprop, options: {eps: .inf}, nesterov: false}").identity


@pytest.mark.parametrize("text", ["inf", "-inf", "Infinity"])
def test_a_text_that_becomes_an_infinite_number_is_refused_as_one(text: str) -> None:
    for dotted in ("method.stages.distil.epochs", "run.log_seconds"):
        with pytest.raises(UserError) as caught:
            resolve("tiny", [Layer("experiment", with_value(dotted, text))])
        assert dotted in str(caught.value)


@pytest.mark.parametrize("key", ["lr", "epochs", "batch_size", "network"])
def test_a_key_without_its_section_is_told_the_sections_that_have_it(key: str) -> None:
    (line,) = mistakes(f"{key}=1")
    section = {"lr": "optimiser", "epochs": "run", "batch_size": "data", "network": "teacher"}[key]
    assert f"Did you mean {section}.{key}" in line


def test_a_word_that_a_shell_cut_is_told_so() -> None:
    # student.taps={maps:[body.2,body.5]} without quotes becomes two words
    (line,) = mistakes("student.taps=body.5]")
    assert line.endswith("put the whole word in quotes.")
    assert mistakes("student.taps=body.5")[0].endswith("write student.taps: {key: value}.")
