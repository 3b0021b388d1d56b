"""A teacher is judged on its own classes before it teaches."""

from __future__ import annotations

from gkd.config.load import load
from gkd.experiment.judge import with_verdict
from gkd.problems.judging import Verdict
from gkd.storage.judged import Judged
from tests.cli_helpers import PHOTOS, gkd, summary_of, write_photos
from tests.refusals import refused


def test_a_teacher_is_judged_when_it_is_loaded(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos.zip")
    assert gkd(*PHOTOS, "run.out=first") == 0
    told = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("teacher   resnet8:")
    )
    assert "of the 18 test images of its 3 classes" in told
    accuracy = summary_of(tmp_path / "first")["teacher"]["accuracy"]
    (file,) = (tmp_path / "first" / "teachers").rglob("student.safetensors")
    words = (*PHOTOS, f"teacher.checkpoint={file}", "run.out=second")
    assert gkd(*words, "teacher.expect=99 ± 0.1") == 2
    assert f"has {accuracy:.2f} % of the 18 test images" in capsys.readouterr().err
    assert not list((tmp_path / "second").rglob("metrics.jsonl"))  # nothing was trained
    assert gkd(*words, f"teacher.expect={accuracy:.2f} +- 0.3") == 0
    assert f"(expected {accuracy:.2f} ± 0.3)" in capsys.readouterr().out
    assert gkd(*words, "teacher.expect=99 ± 0.1") == 2  # also where the run is finished
    assert (
        f"its teacher had {accuracy:.2f} % on its own classes, but teacher.expect is"
        in capsys.readouterr().err
    )
    resolved = load("cross_task/photos", [*words[2:], "teacher.expect=12"])
    assert resolved.experiment.teacher.expect == "12 ± 0.5"
    assert resolved.identity == load("cross_task/photos", words[2:]).identity
    with refused("invalid-config"):
        load("cross_task/photos", ["teacher.expect=good"])


def test_the_numbers_of_a_tasks_own_judging_join_the_others_and_are_finite():
    judged = Judged(accuracy=50.0, metrics={"macro_f1": 40.0})
    assert with_verdict(judged, Verdict({"worst": 30.0})).metrics == {"macro_f1": 40.0, "worst": 30.0}
    with refused("metric-not-finite"):
        with_verdict(judged, Verdict({"worst": float("nan")}))
