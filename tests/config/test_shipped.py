"""The configs and methods that ship: found by name, valid and short."""

from __future__ import annotations

from pathlib import Path

import pytest

from gkd.config.load import load
from gkd.config.shipped import shipped_configs, shipped_methods
from tests.refusals import refused

CONFIGS = shipped_configs()


def test_an_unknown_config_lists_those_that_are_there(tmp_path: Path) -> None:
    with refused("unknown-config"):
        load("quickstar")
    with refused("config-missing"):
        load(tmp_path / "absent.yaml")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_config_is_valid_and_short(name: str) -> None:
    content = CONFIGS[name].read_text().splitlines()
    assert len(content) <= 40
    order = [
        "extends",
        "task",
        "data",
        "teacher",
        "teachers",
        "student",
        "method",
        "optimiser",
        "evaluate",
        "run",
        "compare",
    ]
    keys = [line.split(":")[0] for line in content if line[:1].isalpha()]
    assert keys == sorted(keys, key=order.index)
    resolved = load(name)
    assert resolved.name == name
    assert load(CONFIGS[name]).identity == resolved.identity


def test_all_shipped_configs_are_found() -> None:
    assert "quickstart" in CONFIGS
    assert not any(name.startswith("methods/") for name in CONFIGS)
    assert {"student", "kd", "sp", "refilled"} <= set(shipped_methods())
