"""Networks of a config that do not fit the images or the classes are refused before training."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from rich.console import Console
from torch import nn

from gkd.commands.dry_run import dry_run
from gkd.config.load import load
from gkd.experiment.prepare import prepare
from gkd.experiment.teachers import load_teacher
from gkd.models import build_network
from gkd.storage.weight_metadata import WeightMetadata
from gkd.storage.weights import copy_state, save_weights, state_hash
from tests.library_caches import empty_caches, in_hubs_cache
from tests.refusals import refused


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["student.network=timm/vit_tiny_patch16_224"], "images-not-taken"),
        (["student.taps={maps: [layer9]}"], "unknown-module-path"),
        (
            ["student.options={num_classes: 3}"],
            "invalid-config",
        ),
        (["student.taps={map: [layer1]}"], "invalid-config"),
        (["student.taps={maps: [{path: layer1, layout: chw}]}"], "invalid-config"),
        (["student.taps={maps: [layer1], stages: [[conv1]]}"], "wrong-number-of-stages"),
        (["student.taps={stages: [conv1, layer1]}"], "invalid-config"),
        (
            [
                "student.network=torchvision/resnet18",
                "student.taps={maps: [layer1], stages: [[conv1, layer1], []]}",
            ],
            "wrong-stages",
        ),
        (
            ["student.network=timm/vit_tiny_path16_224"],
            "invalid-config",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_training(words, code):
    with refused(code):
        prepare(load("cross_task/digits", words))


STUDENT = ("method=student", "run.threads=1")


def write_student(path: Path, classes: int, names: list[str] | None = None) -> nn.Module:
    torch.manual_seed(5)
    network = build_network("resnet8", num_classes=classes, in_channels=1)
    save_weights(path, network.state_dict(), WeightMetadata(classes=names and tuple(names)).to_header())
    return network


@pytest.mark.parametrize(
    ("classes", "names", "told"),
    [
        (7, None, "it has 7 classes, and the task 5; the body is loaded, the head is new"),
        (7, list("abcdefg"), "it has 7 classes, and the task 5; the body is loaded, the head is new"),
        (
            5,
            list("abcde"),
            "its columns are other classes than the task's; the body is loaded, the head is new",
        ),
        (
            5,
            list("01239"),
            "its columns are other classes than the task's; the body is loaded, the head is new",
        ),
    ],
)
def test_of_a_student_over_other_classes_the_body_is_loaded(tmp_path, classes, names, told):
    path = tmp_path / "w.safetensors"
    source = write_student(path, classes, names)
    prepared = prepare(load("cross_task/digits", [*STUDENT, f"student.checkpoint={path}"]))
    fresh = prepare(load("cross_task/digits", [*STUDENT])).student
    state = prepared.student.state_dict()
    for name, tensor in source.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(state[name], tensor)
    assert torch.equal(state["fc.weight"], fresh.state_dict()["fc.weight"])
    assert prepared.notes == (f"student.checkpoint {path}: {told}",)


def test_a_student_without_head_or_with_a_projection_in_its_place(tmp_path):
    path = tmp_path / "w.pth"
    source = copy_state(write_student(tmp_path / "w.safetensors", 5))
    body = {name: tensor for name, tensor in source.items() if not name.startswith("fc.")}
    projection = {"projector.0.weight": torch.ones(8, 64), "projector.2.weight": torch.ones(4, 8)}
    mlp = {
        f"fc.{key}": tensor for key, tensor in (("0.weight", torch.ones(64, 64)), ("2.bias", torch.ones(9)))
    }
    for content in (body, {"backbone." + n: t for n, t in body.items()}, body | projection, body | mlp):
        torch.save(content, path)
        prepared = prepare(load("cross_task/digits", [*STUDENT, f"student.checkpoint={path}"]))
        assert all(torch.equal(prepared.student.state_dict()[name], tensor) for name, tensor in body.items())
        assert prepared.notes == (
            f"student.checkpoint {path}: it has no head of this kind; the body is loaded, the head is new",
        )
    for content in (
        body | {"layer9.conv1.weight": torch.ones(2, 2, 3, 3)},
        body | {"layer1.0.gate.weight": torch.ones(2, 2)},  # within the body, which is another one then
        {name: tensor for name, tensor in body.items() if name != "layer1.0.conv1.weight"},
    ):
        torch.save(content, path)
        with refused("other-network"):
            prepare(load("cross_task/digits", [*STUDENT, f"student.checkpoint={path}"]))


def test_a_student_over_the_same_classes_keeps_its_head(tmp_path):
    """In another order they are refused: the head would answer for others, and a new one would lose it."""
    path = tmp_path / "w.safetensors"
    source = write_student(path, 5, list("01234"))
    prepared = prepare(load("cross_task/digits", [*STUDENT, f"student.checkpoint={path}"]))
    assert state_hash(prepared.student) == state_hash(source)
    assert prepared.notes == ()
    write_student(path, 5, list("43210"))
    with refused("other-classes"):
        prepare(load("cross_task/digits", [*STUDENT, f"student.checkpoint={path}"]))


def test_a_teacher_of_another_class_count_stays_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(copy_state(write_student(tmp_path / "w.safetensors", 7)), path)
    words = ["method=kd", "teacher.network=resnet8", f"teacher.checkpoint={path}", "run.threads=1"]
    with refused("other-classes"):
        dry_run(load("cross_task/digits", words), Console(quiet=True))


def test_one_dotted_key_chooses_the_weights_of_either_side(tmp_path):
    """By default the averaged ones, which is said; a key without a checkpoint is refused."""
    path = tmp_path / "w.pth"
    raw, ema = (copy_state(build_network("resnet8", num_classes=5, in_channels=1)) for _ in range(2))
    torch.save({"state_dict": raw, "state_dict_ema": ema}, path)
    for key, tensors in ((None, ema), ("state_dict", raw), ("state_dict_ema", ema)):
        words = [] if key is None else [f"student.checkpoint_key={key}"]
        prepared = prepare(load("cross_task/digits", [*STUDENT, f"student.checkpoint={path}", *words]))
        assert torch.equal(prepared.student.state_dict()["conv1.weight"], tensors["conv1.weight"])
        note = f"student.checkpoint {path}: takes state_dict_ema, the averaged weights, and not state_dict, which "
        note += "would fit too; to choose: student.checkpoint_key=state_dict"
        assert prepared.notes == ((note,) if key is None else ())
        words = [] if key is None else [f"teacher.checkpoint_key={key}"]
        words += ["method=kd", "teacher.network=resnet8", f"teacher.checkpoint={path}", "run.threads=1"]
        teacher, prepared = load_teacher(prepare(load("cross_task/digits", words)), path)
        assert torch.equal(teacher.network.state_dict()["conv1.weight"], tensors["conv1.weight"])
        said = [each for each in prepared.notes if "takes" in each]
        assert said == ([note.replace("student.", "teacher.")] if key is None else [])
    with refused("unknown-checkpoint-key"):
        prepare(
            load("cross_task/digits", [*STUDENT, f"student.checkpoint={path}", "student.checkpoint_key=ema"])
        )
    with refused("invalid-config"):
        load("cross_task/digits", [*STUDENT, "student.checkpoint_key=ema"])


def test_a_student_starts_from_a_librarys_weights_under_a_new_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = timm.create_model("resnet10t")
    in_hubs_cache(empty_caches(tmp_path, monkeypatch), "timm/resnet10t.c3_in1k", theirs)
    words = ["student={network: timm/resnet10t, pretrained: true}", "method=student", "data.image_size=32"]
    prepared = prepare(load("cross_task/digits", [*words, "data.channels=3"]))
    state = prepared.student.state_dict()
    assert torch.equal(state["layer4.0.conv1.weight"].cpu(), theirs.state_dict()["layer4.0.conv1.weight"])
    assert state["fc.weight"].shape[0] == 5
    assert "1000 classes, and the task 5; the body is loaded, the head is new" in prepared.notes[0]
