"""Bad input: one clear sentence, exit code 2, nothing lost."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gkd.cli import _guarded
from gkd.models import build_network
from gkd.storage import checkpoints, weights
from tests.cli_helpers import FAST, gkd, write_bare, write_photos


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder, asserts exit code 2, and returns its one sentence."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        assert gkd(*words) == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return captured.err

    return run


@pytest.fixture
def photos(tmp_path) -> Path:
    """A zip of class folders: two classes of six 8-pixel images, train and test."""
    path = tmp_path / "photos.zip"
    write_photos(path)
    return path


def on_photos(path: Path, *words: str) -> tuple[str, ...]:
    data = (
        f"data={{name: folder, root: {path}, validation: {{per_class: 1}}, batch_size: 4, per_class: null}}"
    )
    return ("run", "cross_task/digits", data, "task.size=1", "task.shift=1", "method=sp", *FAST, *words)


def test_an_unknown_key_names_the_closest_match(refused):
    assert "student.netwrok: Unknown key 'netwrok'. Did you mean 'network'?" in refused(
        "run", "cross_task/digits", "student.netwrok=resnet8"
    )


def test_an_unknown_method_option_names_the_closest_match(refused):
    message = refused("run", "cross_task/digits", "method=kd", "method.stages.distil.terms.kd.temperatur=2")
    assert "Did you mean 'temperature'?" in message


def test_a_wrong_type_says_what_it_got(refused):
    message = refused("run", "cross_task/digits", "run.epochs=many")
    assert "run.epochs" in message
    assert "'many'" in message


def test_every_mistake_is_reported_at_once(refused):
    message = refused("run", "cross_task/digits", "run.epochs=many", "student.netwrok=x", "data.batch_size=0")
    assert "3 mistakes" in message


def test_a_missing_config_lists_the_shipped_ones(refused):
    assert "cross_task/digits" in refused("run", "quikstart")
    assert "does not exist" in refused("run", "configs/nothing.yaml")


def test_a_missing_data_file(refused, tmp_path):
    assert "nowhere.zip" in refused(*on_photos(tmp_path / "nowhere.zip"))


def test_an_unreadable_zip(refused, tmp_path):
    path = tmp_path / "broken.zip"
    path.write_bytes(b"PK not a zip")
    assert "broken.zip" in refused(*on_photos(path))


def test_a_corrupt_image_is_named(refused, tmp_path):
    path = tmp_path / "photos.zip"
    write_photos(path, corrupt="train/dog/3.png")
    assert "train/dog/3.png" in refused(*on_photos(path))


def test_an_empty_class_is_named(refused, tmp_path):
    path = tmp_path / "photos.zip"
    write_photos(path, empty="dog")
    assert "'dog'" in refused(*on_photos(path))


def test_a_class_unknown_to_the_data(refused, photos):
    task = "task={name: cross_task, teacher_classes: {names: [cat, dgo]}, student_classes: {names: [owl]}}"
    message = refused(*on_photos(photos), task, "task.size=null", "task.shift=0")
    assert "Unknown class 'dgo'. Did you mean 'dog'?" in message


def test_a_window_larger_than_the_data(refused):
    message = refused("run", "cross_task/digits", "task.size=8", "task.shift=5")
    assert "the data has 10 classes" in message


def test_a_method_that_the_relation_denies_names_those_that_work(refused):
    message = refused("run", "cross_task/digits", "method=kd", "task.shift=5")
    assert "share no class" in message
    assert "refilled" in message
    assert "sp" in message


def test_a_method_without_its_teacher(refused, tmp_path):
    config = tmp_path / "alone.yaml"
    config.write_text(
        "task: {name: standard}\ndata: {name: digits}\nstudent: {network: resnet8}\nmethod: kd\n"
    )
    message = refused("run", str(config))
    assert "needs a teacher" in message
    assert "student" in message


def test_a_teacher_checkpoint_of_another_network(refused, tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_file(build_network("resnet20", num_classes=5, in_channels=1).state_dict(), path)
    message = refused("run", "cross_task/digits", "teacher.network=resnet32", f"teacher.checkpoint={path}")
    assert "another network than resnet32" in message


def test_a_teacher_checkpoint_that_says_another_network(refused, tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_file(
        build_network("resnet20", num_classes=5, in_channels=1).state_dict(), path, {"network": "resnet20"}
    )
    message = refused("run", "cross_task/digits", "teacher.network=resnet32", f"teacher.checkpoint={path}")
    assert "set teacher.network=resnet20" in message


def test_a_teacher_checkpoint_of_another_class_count(refused, tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_file(build_network("resnet20", num_classes=7, in_channels=1).state_dict(), path)
    message = refused("run", "cross_task/digits", "teacher.network=resnet20", f"teacher.checkpoint={path}")
    assert "holds 7 classes ('fc.bias'), teacher.classes or the task names 5" in message


def test_a_missing_teacher_checkpoint(refused):
    assert "gone.safetensors does not exist" in refused(
        "run", "cross_task/digits", "teacher.checkpoint=gone.safetensors"
    )


def test_an_unknown_network_task_data_set_and_word(refused):
    assert "resnet20" in refused("run", "cross_task/digits", "student.network=resnet21")
    assert "cross_task" in refused("run", "cross_task/digits", "task.name=crosstask")
    assert "digits" in refused("run", "cross_task/digits", "data.name=digit")
    assert "a.b=c" in refused("run", "cross_task/digits", "=3")


def test_a_grid_is_refused_where_there_is_none(refused):
    assert "no compare section" in refused("compare", "standard/digits")


def test_evaluating_what_is_no_run(refused):
    assert "There is no runs/nothing; gkd eval takes" in refused("eval", "runs/nothing")


def test_a_damaged_summary_is_named(refused, tmp_path, capsys):
    assert gkd("run", "cross_task/digits", "method=student", *FAST) == 0
    (path,) = (tmp_path / "runs" / "cross_task" / "digits").rglob("summary.json")
    path.write_text(path.read_text()[:100])
    capsys.readouterr()
    assert "summary.json is damaged. Remove it" in refused("eval", str(path.parent))
    assert gkd("run", "cross_task/digits", "method=student", *FAST) == 0  # made anew of the last checkpoint
    assert gkd("eval", str(path.parent)) == 0


def test_a_damaged_cell_is_named(refused, tmp_path, capsys):
    grid = (
        "compare",
        "cross_task/digits",
        *FAST,
        "compare.methods=[student]",
        "compare.seeds=[0]",
        "compare.axes={task.shift: [0]}",
    )
    assert gkd(*grid) == 0
    (path,) = tmp_path.rglob("cells/*.json")
    (run,) = {file.parent for file in tmp_path.rglob("summary.json")}
    shutil.rmtree(run)  # of which the cell could be made anew
    for content in ("{", "{}"):
        path.write_text(content)
        capsys.readouterr()
        assert f"{path.name} is damaged" in refused(*grid)


def test_a_setting_of_another_method_is_refused(refused):
    weight = "method.stages.distil.terms.sp.weight=3"
    text = refused("run", "cross_task/digits", weight, "method=sp")
    assert "speaks of the method 'refilled', but the method here is 'sp'; write it after method=NAME" in text


def test_an_override_that_a_grid_would_lose_is_refused(refused):
    for key, instead in (("method=kd", "methods"), ("run.seed=7", "seeds"), ("task.shift=1", "axes")):
        text = refused("compare", "cross_task/digits", key)
        assert f"so the override is lost; use compare.{instead}" in text


def test_an_override_without_a_value_is_refused(refused):
    assert "has no value; write run.epochs=null to unset the key" in refused(
        "run", "cross_task/digits", "run.epochs="
    )


def test_an_unknown_home_folder(refused):
    text = refused("run", "cross_task/digits", "data.name=folder", "data.root=~nosuchuser/photos")
    assert "data.root: the home folder in '~nosuchuser/photos' is not known" in text


def test_evaluating_with_other_classes(refused, capsys):
    assert gkd("run", "cross_task/digits", "method=student", *FAST) == 0
    (path,) = Path("runs/cross_task/digits").rglob("summary.json")
    capsys.readouterr()
    assert "knows 0, 1, 2, 3, 4, but the overrides make the task 5, 6" in refused(
        "eval", str(path.parent), "task.shift=5"
    )


def test_validate_refuses_what_the_relation_denies(refused):
    words = ("task={name: cross_task, size: 5, shift: 5}", "compare=null")
    assert "Methods that work here" in refused("validate", "cross_task/digits", "method=kd", *words)


@pytest.mark.parametrize(
    "verb",
    [
        ("validate",),
        pytest.param(("run", "--dry-run"), marks=pytest.mark.full),
        pytest.param(("run",), marks=pytest.mark.full),
    ],
    ids=" ".join,
)
def test_what_images_without_labels_lack_is_told_before_training(refused, tmp_path, verb):
    """No image in the folder, no folder given, no term that can use them; in overlapping classes, or at once."""
    write_bare(tmp_path / "bare", 16)
    (tmp_path / "none").mkdir()
    both, bare = ("method=sp", "method.stages.distil.data=both"), "data.unlabelled.root=bare"
    said = {
        (*both, "data.unlabelled.root=none"): "has no image",
        both: "there are no images without labels; name their folder or zip by data.unlabelled.root",
        (
            "method=student",
            "method.stages.train.data=both",
            bare,
        ): "each of the terms cross_entropy reads labels",
        ("method=kd", both[1], "task.shift=2", bare): "its term 'kd' cannot use images without labels",
        (*both, bare, "data.batch_size=40"): "takes 20 images of data.unlabelled (bare), which has 16",
    }
    for words, sentence in said.items():
        message = refused(*verb, "cross_task/digits", "compare=null", *words, *FAST)
        assert sentence in message
        assert message.count("\n") == 1, message
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_summary_of_another_kind_is_named(refused, tmp_path, capsys):
    assert gkd("run", "cross_task/digits", "method=student", *FAST) == 0
    (path,) = (tmp_path / "runs" / "cross_task" / "digits").rglob("summary.json")
    path.write_text("[]")
    shutil.rmtree(path.with_name("checkpoints"))  # of which it could be made anew
    capsys.readouterr()
    assert "summary.json is damaged" in refused("run", "cross_task/digits", "method=student", *FAST)


def test_no_space_left_keeps_the_last_checkpoint(refused, tmp_path, monkeypatch):
    words = ("run", "cross_task/digits", "method=student", *FAST, "run.checkpoint_seconds=0")
    save, calls = weights.write_safetensors, []

    def full_disk(path, tensors, metadata):
        calls.append(path)
        if len(calls) > 6:  # the first checkpoints fit, the rest does not
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, tensors, metadata)

    for module in (checkpoints, weights):
        monkeypatch.setattr(module, "write_safetensors", full_disk)
    message = refused(*words)
    assert "no space left" in message
    whole = [checkpoints.latest_checkpoint(folder) for folder in tmp_path.rglob("checkpoints")]
    assert whole
    assert all(found is not None for found in whole)
    assert not list(tmp_path.rglob(".*.tmp*"))
    for module in (checkpoints, weights):
        monkeypatch.setattr(module, "write_safetensors", save)
    assert gkd(*words) == 0  # with space again, the same command continues


def test_a_teacher_is_trained_by_a_method_without_one(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fast = ("run.epochs=1", "teacher.train.epochs=1", "run.threads=1", "method=kd")
    assert gkd("run", "cross_task/digits", *fast, "teacher.train.method=sp") == 2
    assert "teacher.train.method=sp needs a teacher itself" in capsys.readouterr().err
    assert gkd("run", "cross_task/digits", *fast, "teacher.train.method=mixup") == 0
    assert "mixup seed 0  train 1/1" in capsys.readouterr().out


def failing(error):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    "body",
    [
        lambda: torch.empty(2**50),
        lambda: torch.empty(2**62),
        lambda: np.empty(2**50),
        lambda: bytearray(2**60),
        failing(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")),
        failing(
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"
            )
        ),
        failing(RuntimeError("std::bad_alloc")),
        failing(RuntimeError("can't start new thread")),
        failing(OSError(errno.ENOMEM, "Cannot allocate memory")),
    ],
)
def test_memory_that_does_not_suffice_is_a_sentence(capsys, body):
    assert _guarded(body) == 2
    assert "gkd: The memory does not suffice, and what was saved before is whole." in capsys.readouterr().err


def test_another_error_of_torch_is_not_taken_for_it():
    with pytest.raises(RuntimeError, match="shapes"):
        _guarded(failing(RuntimeError("shapes cannot be multiplied")))
