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


def test_a_dry_run_says_what_each_term_pulls(capsys):
    weight = "method.stages.distil.terms.sp.weight"
    for words, told in {
        (f"{weight}=3000",): "sp 17 (drowns the rest)",
        (f"{weight}=0.1",): "(does nothing)",
        (f"{weight}={{relative: 0.5, batches: 1}}",): "sp 0.5",
    }.items():
        assert gkd("run", "cross_task/digits", "method=sp", "run.threads=1", *words, "--dry-run") == 0
        printed = capsys.readouterr().out
        assert "stage     distil: gradients at the start, times the cross-entropy's: sp " in printed
        assert told in printed


def test_a_dry_run_counts_the_pretraining(capsys):
    assert (
        gkd("run", "--dry-run", "few_shot/digits", "method=student", "student.pretrain.epochs=3", *FEW) == 0
    )
    printed = capsys.readouterr().out
    assert "pretraining, train: loss" in printed
    assert "x 3 epochs" in printed


def test_a_dry_run_says_how_many_generations_are_left_and_tries_the_first_and_the_next(capsys):
    words = (
        "run",
        "cross_task/digits",
        "method=kd",
        "run.threads=1",
        "teacher.train.epochs=1",
        "run.epochs=2",
    )
    assert gkd(*words, "task.generations=3", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "students  3 generations to train, each taught by the one before\n" in printed
    lines = [line.partition(": loss")[0] for line in printed.splitlines() if ": loss" in line]
    assert lines == [
        "stage     generation 1, teacher, train",
        "stage     generation 1, distil",
        "stage     generations 2 to 3, each, distil",
    ]
    assert gkd(*words) == 0
    capsys.readouterr()
    assert gkd(*words, "task.generations=3", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert (
        "students  2 generations to train, each taught by the one before, after 1 that is trained" in printed
    )
    assert "generation 1, distil" not in printed
    assert gkd(*words, "task.generations=2", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "students  1 generation to train" in printed
    assert "stage     generation 2, distil: loss" in printed
