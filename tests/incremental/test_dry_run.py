"""What a dry run says of steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli_helpers import gkd
from tests.step_helpers import WORDS, run


@pytest.mark.parametrize("method", ["icarl", "podnet", "joint", "refilled", "der"])
def test_a_dry_run_tries_a_step_without_and_one_with_a_teacher(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gkd("run", *WORDS, f"method={method}", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "6, 2, 2 classes" in printed
    assert "step 1    " in printed
    assert "step 2    " in printed
    assert "step 3" not in printed
    assert not Path("runs").exists()


def test_a_step_of_one_class_is_no_step_for_a_loss_over_new_classes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = ("task.increment=null", "task.base=null", "run.epochs=1", "task.base_epochs=1")
    run(*few, "task.steps=[[0, 1, 2, 3, 4, 5, 6, 7, 8], [9]]", "method=finetune")
    assert "cross_entropy_new is always 0" in capsys.readouterr().out
    run("method=finetune", "run.epochs=1", "task.base_epochs=1")
    assert "cross_entropy_new" not in capsys.readouterr().out
