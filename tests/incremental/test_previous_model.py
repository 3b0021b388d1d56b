"""A given model: the teacher of the first step, and what its student grows out of."""

from __future__ import annotations

import pytest

from gkd.storage.weights import read_weights
from tests.cli_helpers import gkd
from tests.step_helpers import WORDS, read, run


def test_a_given_model_is_the_teacher_of_a_student_unlike_it(capsys: pytest.CaptureFixture[str]) -> None:
    """One step, the old model another network: distil and extend at once."""
    words = ("task.base=5", "task.increment=5", "task.fresh_student=true", "method=sp")
    words += ("teacher.network=resnet14", "teacher.train.epochs=2")
    folder = run(*words)
    summary = read(folder)
    assert [step["step"] for step in summary["incremental"]["steps"]] == [1, 2]
    given = summary["incremental"]["steps"][0]["given"]
    assert summary["teacher"]["hash"] == given["hash"] == summary["incremental"]["steps"][1]["teacher_hash"]
    assert summary["teacher"]["accuracy"] == pytest.approx(
        read(folder, "matrix")["classifier"]["rows"][0][0], abs=1e-3
    )
    assert read_weights(folder / "student.safetensors")[1]["network"] == "resnet8"
    capsys.readouterr()
    assert given["weights"].startswith("teachers/")  # among all runs, wherever they are
    checkpoint = f"teacher.checkpoint=runs/{given['weights']}"
    assert gkd("run", *WORDS, *words, checkpoint, "teacher.expect=1") == 2
    assert "teacher.expect is 1" in capsys.readouterr().err


def test_a_student_grows_out_of_a_given_model_and_does_not_where_it_cannot(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = run("method=replay") / "steps" / "2" / "student.safetensors"
    teacher = ("teacher.network=resnet8", f"teacher.checkpoint={first.resolve()}")
    folder = run("method=lwf", *teacher, "task.start_from=2")
    matrices = read(folder, "matrix")
    assert [row[0] is None for row in matrices["classifier"]["rows"]] == [True, False, False]
    assert matrices["classifier"]["summary"]["average"] is not None
    assert len(read(folder / "steps" / "2", "memory")["exemplars"]) == 8
    capsys.readouterr()
    for words, sentence in (
        (["task.start_from=1"], "knows 8 classes|has 8 classes"),
        (["task.start_from=2", "task.order=3"], "is of another class order: its column 0 is '0'"),
        (["task.start_from=2", "student.network=resnet14"], "cannot grow out of it"),
        (
            ["task.start_from=2", "data.mean=[0.5]", "data.std=[0.5]"],
            "data.std to those of the model",
        ),
        (["task.start_from=2", "method=ucir"], "cannot grow out of it"),
        (
            ["task.start_from=2", "method.growth.old=frozen"],
            "freezes the old classes' columns, which a Linear cannot",
        ),
    ):
        assert gkd("run", *WORDS, "method=lwf", *teacher, *words) == 2
        error = capsys.readouterr().err
        assert any(part in error for part in sentence.split("|")), error
        assert "\n" not in error.strip()
