"""Networks from elsewhere through the command line: a run, its folder, its export."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.cli_helpers import gkd


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


SHORT = ("run.epochs=2", "teacher.train.epochs=1", "evaluate.every=2", "run.threads=1")


@pytest.mark.parametrize("method", ["sp", "refilled", "kd"])
def test_a_vit_teaches_a_wide_network_by_config_alone(method, tmp_path, capsys):
    assert gkd("run", "standard/vit_teacher", f"method={method}", *SHORT) == 0
    (folder,) = (tmp_path / "runs" / "standard" / "vit_teacher").rglob("seed0")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["teacher"]["accuracy"] > 10  # it has learnt something, and its output is used
    (teacher,) = (tmp_path / "runs" / "teachers").rglob("student.safetensors")
    with safe_open(teacher, framework="pt") as file:
        assert json.loads(file.metadata()["options"])["patch_size"] == 4
        assert "blocks.3.attn.qkv.weight" in file.keys()  # noqa: SIM118
    capsys.readouterr()
    assert gkd("run", "standard/vit_teacher", f"method={method}", *SHORT) == 0
    assert "nothing was trained" in capsys.readouterr().out


def test_a_tapped_student_is_trained_judged_and_exported(tmp_path, capsys):
    options = "student.options={img_size: 8, patch_size: 4, embed_dim: 24, depth: 2, num_heads: 2}"
    words = ("student.network=timm/vit_tiny_patch16_224", options, "method=student", *SHORT)
    assert gkd("run", "standard/vit_teacher", *words) == 0
    (folder,) = (tmp_path / "runs" / "standard" / "vit_teacher").rglob("seed0")
    accuracy = json.loads((folder / "summary.json").read_text())["last"]["accuracy"]
    capsys.readouterr()
    assert gkd("eval", str(folder)) == 0
    assert f"{accuracy:.4g}" in capsys.readouterr().out
    assert gkd("export", str(folder), "--format", "safetensors", "--weights", "best") == 0
    printed = capsys.readouterr().out
    assert "student-best.safetensors: " in printed
    assert "timm/vit_tiny_patch16_224, 10 classes; read back, its logits differ by" in printed
    exported = folder / "export" / "student-best.safetensors"
    weights = ("teacher.checkpoint=" + str(exported), "teacher.network=timm/vit_tiny_patch16_224")
    assert (
        gkd("run", "standard/digits", *weights, "run.epochs=1", "run.threads=1") == 0
    )  # and teaches in turn


def test_a_term_on_maps_names_the_taps_that_a_network_lacks(capsys):
    # Another network than the file's takes none of the file's options.
    words = ("teacher.network=timm/coat_tiny", "teacher.options={img_size: 32}", "data.image_size=32")
    assert gkd("run", "standard/vit_teacher", "method=sp", *words, *SHORT) == 2
    error = capsys.readouterr().err
    assert "The spot -1 is a map, but no module of the network is known to give one" in error
    assert "student.taps or teacher.taps" in error
    assert not list(Path("runs").rglob("*.safetensors"))


def test_a_size_that_a_patch_does_not_divide_is_refused_before_an_image_is_read(capsys):
    words = ("data.root=nowhere", "teacher.network=timm/test_vit", "teacher.image_size=100")
    for verb in (["validate"], ["run", "--dry-run"]):
        assert gkd(*verb, "cross_task/photos", *words) == 2
        error = capsys.readouterr().err
        assert "takes no images of 100×100 pixels; set teacher.image_size to the nearest" in error
        assert "96 or 112" in error


BEHIND = ("student.network=tests.network_helpers:behind", "student.options={kind: mean}")


def test_two_heads_are_not_grown_and_are_said_where_one_is_read(capsys):
    steps = ("incremental/digits", "method=finetune", "run.threads=1", *BEHIND)
    for verb in (["run"], ["run", "--dry-run"]):
        assert gkd(*verb, *steps) == 2
        assert "The logits of the Behind are not what its head makes" in capsys.readouterr().err
    assert not Path("runs").exists()  # nothing was trained
    words = ("standard/digits", "method=protonet", "teacher=null", "run.epochs=1", "run.threads=1", *BEHIND)
    episodes = "method.stages.episodes.episodes={ways: 3, shots: 1, queries: 3, per_epoch: 2}"
    note = "note      The logits of the student's Behind are not what its head makes of its embedding, which the term"
    for verb in (["run"], ["run", "--dry-run"]):
        assert gkd(*verb, *words, episodes) == 0
        assert note in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.full
def test_default_taps_that_fit_nothing_refuse_only_a_term_that_reads_them(capsys):
    words = (
        "standard/digits",
        "teacher=null",
        "run.epochs=1",
        "run.threads=1",
        "student.network=timm/selecsls42b",
    )
    assert gkd("run", *words, "method=student", "--dry-run", "data.image_size=32", "data.batch_size=4") == 0
    words = (*words[:1], *words[2:], "teacher.network=resnet8", "data.image_size=32", "method=sp")
    spots = "method.stages.distil.terms.sp.at={student: 1, teacher: 1}"
    assert gkd("run", *words, spots) == 2
    error = capsys.readouterr().err.replace("\n", " ")
    assert "The spot 1 is a map that the network's default taps do not give" in error
    assert "features.1" in error
