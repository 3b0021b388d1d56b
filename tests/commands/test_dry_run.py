"""What a run would cost, before it trains."""

from __future__ import annotations

import pytest

from tests.cli_helpers import gkd

FEW = ("run.epochs=2", "teacher.train.epochs=1", "task.episodes.count=40", "task.episodes.validation=20")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_dry_run_counts_a_network_from_elsewhere(capsys):
    assert gkd("run", "standard/vit_teacher", "method=sp", "--dry-run") == 0
    assert "teacher   timm/vit_tiny_patch16_224, " in capsys.readouterr().out


def test_a_dry_run_counts_the_pretraining(capsys):
    assert (
        gkd("run", "--dry-run", "few_shot/digits", "method=student", "student.pretrain.epochs=3", *FEW) == 0
    )
    printed = capsys.readouterr().out
    assert "pretraining, train: loss" in printed
    assert "x 3 epochs" in printed
