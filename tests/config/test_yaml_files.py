"""YAML as experiments write it: numbers, keys that appear twice, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from gkd.config.load import load
from gkd.config.yaml_files import parse_yaml, read_yaml
from gkd.core.errors import UserError
from tests.config_helpers import Write, tiny
from tests.refusals import refused


def test_a_number_in_scientific_notation_is_a_number() -> None:
    text = "[1e-3, 5e-4, 1E3, -2e+1, .5e-2, 1.e2, 1e, e3, 1.5]"
    assert parse_yaml(text, "x") == [0.001, 0.0005, 1000.0, -20.0, 0.005, 100.0, "1e", "e3", 1.5]
    stage = tiny("optimiser.lr=1e-3").experiment.method.stages["embedding"]
    assert stage.optimiser.lr == 0.001


def test_a_key_that_appears_twice_is_refused(write: Write) -> None:
    path = write("twice", "task: {name: standard}\ndata:\n  name: digits\n  views: 2\n  name: cifar10\n")
    with refused("invalid-yaml"):
        load(path)


def test_a_duplicate_key_is_found_by_file_and_line(write: Write) -> None:
    path = write("twice", "task: {name: standard}\ndata:\n  name: digits\n  views: 2\n  name: cifar10\n")
    with refused("invalid-yaml") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"task: [", "invalid-yaml"),
        (b"- 1", "not-a-mapping"),
        (b"", "not-a-mapping"),
        (b"\xff\xfe\x00\x80", "config-unreadable"),
    ],
    ids=["broken", "list", "empty", "binary"],
)
def test_a_file_that_is_no_experiment_is_said(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with refused(code):
        load(path)


def test_an_override_that_is_no_text_is_refused() -> None:
    with refused("not-utf-8"):
        tiny("data.root=caf\udce9")


def bomb(levels: int, line: str) -> str:
    """Each level names the one before ten times."""
    first = "a0: &a0 {x0: 1}\n" if "<<" in line else "a0: &a0 [1]\n"
    return first + "".join(line.format(level, level - 1) for level in range(1, levels))


@pytest.mark.parametrize(
    "line",
    [
        "a{0}: &a{0} [" + ", ".join(["*a{1}"] * 10) + "]\n",
        "a{0}: &a{0} {{" + ", ".join(f"k{number}: *a{{1}}" for number in range(10)) + "}}\n",
        "a{0}: &a{0} {{<<: [" + ", ".join(["*a{1}"] * 10) + "]}}\n",
    ],
    ids=["lists", "mappings", "merges"],
)
def test_aliases_that_stand_for_too_much_are_refused_before_they_are_read(write: Write, line: str) -> None:
    with refused("invalid-yaml"):
        load(write("bomb", bomb(40, line)))
    if "<<" not in line:  # merge keys are no part of a config
        assert len(parse_yaml(bomb(4, line), "x")) == 4  # a thousand values


def test_a_device_is_read_no_further_than_a_config_goes() -> None:
    with refused("config-unreadable"):
        read_yaml(Path("/dev/zero"))


def test_a_file_of_more_than_a_config_has_is_told_by_its_size(tmp_path: Path) -> None:
    """Whatever letter stands where reading stops, and in whatever number of bytes."""
    path = tmp_path / "long.yaml"
    path.write_bytes("é".encode() * (2**23 + 1))
    with refused("config-unreadable") as caught:
        read_yaml(path)
    assert "is larger than 16 MiB" in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "9" * 5000, "0x" + "f" * 5000, str(2**64 + 1), "2020-13-45", "!!timestamp x", "!!bool x", "!!int x",
        "!!float x", "!!binary x", "!x y", "{? [a] : b}", "&a [*a]", "&a {b: [*a]}",
        "{a: " * 1000 + "1" + "}" * 1000, "[" * 3000,
        "[" * 3000 + "]" * 3000,
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_values_that_are_none_are_told_in_one_short_sentence(value: str) -> None:
    with pytest.raises(UserError) as caught:
        tiny(f"run.seed={value}")
    assert caught.value.code in ("invalid-yaml", "invalid-config")
    assert len(str(caught.value)) < 500
    assert parse_yaml("{a: &x [1], b: *x, c: 2020-01-02, d: 18446744073709551615}", "x")["b"] == [1]
