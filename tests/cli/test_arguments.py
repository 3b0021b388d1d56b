"""The arguments of every verb: answered without torch, and overrides wherever they stand."""

from __future__ import annotations

import runpy
import subprocess
import sys

import pytest

from gkd.cli.arguments import VERBS, parsed
from gkd.core.version import VERSION

HEAVY = ("torch", "numpy", "pydantic", "torchvision", "sklearn", "yaml")


def in_a_new_process(*calls: tuple[str, ...]) -> str:
    """What the calls print, one after the other in one new interpreter, and then which heavy modules it has."""
    code = f"""
import sys
sys.argv = ["gkd"]
from gkd.cli import main
for words in {calls!r}:
    try:
        print("code", main(words))
    except SystemExit as stop:
        print("code", stop.code)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_help_version_ls_and_a_wrong_verb_are_answered_without_torch():
    helps = [(verb, "--help") for verb in VERBS]
    lists = (("ls",), ("ls", "optimisers"), ("ls", "cache"))
    printed = in_a_new_process(("--help",), ("--version",), *lists, ("rum",), *helps)
    lines = printed.splitlines()
    assert lines[-1] == "[]"
    assert [line for line in lines if line.startswith("code")] == [
        *["code 0"] * 5,
        "code 2",
        *["code 0"] * len(helps),
    ]
    assert f"gkd {VERSION}" in lines
    assert any(line.split()[:1] == ["refilled_joint"] for line in lines)


def test_gkd_is_a_module_too(monkeypatch):
    done = subprocess.run(
        [sys.executable, "-m", "gkd", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"gkd {VERSION}\n"
    monkeypatch.setattr("gkd.cli.main", lambda: 7)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("gkd", run_name="__main__")
    assert ended.value.code == 7


OVERRIDES = ["run.seed=1", "method=sp"]


@pytest.mark.parametrize(
    "words",
    [
        ["run", "cross_task/digits", *OVERRIDES],
        ["run", "--dry-run", "cross_task/digits", *OVERRIDES],
        ["run", "cross_task/digits", OVERRIDES[0], "--dry-run", OVERRIDES[1]],
        ["compare", "cross_task/digits", "--finished", *OVERRIDES],
        ["validate", "cross_task/digits", *OVERRIDES],
        ["eval", "runs/a", *OVERRIDES],
        ["export", "runs/a", "--format", "onnx", *OVERRIDES],
        ["export", "runs/a", OVERRIDES[0], "--format", "onnx", OVERRIDES[1]],
        ["predict", "runs/a", "cat.png", *OVERRIDES],
        ["predict", "runs/a", *OVERRIDES, "cat.png"],
        ["predict", "runs/a", OVERRIDES[0], "--weights", "best", OVERRIDES[1], "cat.png"],
        ["predict", "runs/a", "cat.png", "--support", "few", *OVERRIDES],
        ["predict", "runs/a", "--set", OVERRIDES[0], "cat.png", OVERRIDES[1]],
    ],
    ids=" ".join,
)
def test_every_verb_takes_overrides_wherever_they_stand(words):
    arguments = parsed(words)
    assert arguments.overrides == OVERRIDES
    if words[0] == "predict":
        assert [path.name for path in arguments.images] == ["cat.png"]


def test_what_is_neither_a_flag_nor_an_override_is_refused(capsys):
    for words in (
        ["run", "cross_task/digits", "--dry-run", "more"],
        ["ls", "tasks", "--all"],
        ["predict", "a", "b", "--x=1"],
    ):
        with pytest.raises(SystemExit) as stop:
            parsed(words)
        assert stop.value.code == 2
        assert "unrecognised: " in capsys.readouterr().err
