"""Teachers: which run trains one, and what a weight file says of its classes, options and checksum."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from gkd.config.load import load
from gkd.experiment.prepare import prepare
from gkd.experiment.teachers import check_checksum, load_teacher, teacher_experiment
from gkd.models import build_network
from gkd.storage.checksums import sha256
from gkd.storage.weight_metadata import weights_name
from gkd.storage.weights import read_weight_file
from tests.library_caches import empty_caches, in_hubs_cache
from tests.refusals import refused


def test_a_shared_teacher_is_one_run_whatever_the_student():
    variants = (["task.shift=5"], ["method=sp"], ["run.seed=4"], ["data.views=3"], ["data.per_class=9"])
    base = teacher_experiment(prepare(load("cross_task/digits"))).identity
    assert {teacher_experiment(prepare(load("cross_task/digits", words))).identity for words in variants} == {
        base
    }
    assert teacher_experiment(prepare(load("cross_task/digits", ["teacher.train.epochs=7"]))).identity != base


def test_the_columns_of_a_checkpoint_are_those_that_it_says(tmp_path):
    prepared = prepare(load("cross_task/digits", ["task.shift=2"]))
    path = tmp_path / "teacher.safetensors"
    network = build_network(prepared.experiment.teacher.network, num_classes=5, in_channels=1)
    save_file(network.state_dict(), path, {"classes": json.dumps(["4", "2", "0", "1", "3"])})
    teacher, prepared = load_teacher(prepared, path)
    problem = prepared.problem
    assert teacher.space.names == ("4", "2", "0", "1", "3")
    shared = [(problem.relation.student.names[s], teacher.space.names[t])
              for s, t in zip(problem.relation.student_index, problem.relation.teacher_index, strict=True)]  # fmt: skip
    assert shared == [("2", "2"), ("3", "3"), ("4", "4")]


VIT = "teacher.network=timm/vit_tiny_patch16_224"
OPTIONS = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
WITH_OPTIONS = f"teacher.options={json.dumps(OPTIONS)}"


def vit_weights(path: Path, **metadata: str) -> Path:
    network = build_network(VIT.split("=")[1], num_classes=5, in_channels=1, **OPTIONS)
    save_file(network.state_dict(), path, {"network": VIT.split("=")[1], **metadata})
    return path


def test_a_teacher_is_built_with_the_options_that_its_file_says(tmp_path):
    path = vit_weights(tmp_path / "vit.safetensors", options=json.dumps(OPTIONS))
    for words in ([VIT], [VIT, WITH_OPTIONS]):
        teacher, _ = load_teacher(prepare(load("cross_task/digits", words)), path)
        assert len(teacher.network.maps) == 2
        assert teacher.network.embedding_dim == 24
    other = [VIT, "teacher.options={img_size: 8, patch_size: 2}"]
    with refused("other-options"):
        load_teacher(prepare(load("cross_task/digits", other)), path)


def test_a_library_s_own_file_takes_the_options_of_the_config(tmp_path):
    network = build_network(VIT.split("=")[1], num_classes=5, in_channels=1, **OPTIONS)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    teacher, _ = load_teacher(prepare(load("cross_task/digits", [VIT, WITH_OPTIONS])), tmp_path / "vit.pth")
    assert teacher.network.embedding_dim == 24


def test_the_run_that_trains_a_teacher_builds_the_same_network():
    words = [VIT, WITH_OPTIONS, "teacher.taps={head: head, maps: [blocks.0]}"]
    student = teacher_experiment(prepare(load("cross_task/digits", words))).experiment.student
    assert student.options == OPTIONS
    assert student.taps.head == "head"
    other = [*words[:2], "teacher.taps={head: head, maps: [blocks.1]}"]
    first, second = (
        teacher_experiment(prepare(load("cross_task/digits", w))).identity for w in (words, other)
    )
    assert first == second  # which maps a loss reads later changes nothing of the teacher
    cut = [
        *words[:2],
        "teacher.taps={head: head, maps: [blocks.0], stages: [[patch_embed, blocks.0], [norm]]}",
    ]
    assert teacher_experiment(prepare(load("cross_task/digits", cut))).identity == first


def test_a_checkpoint_of_other_classes_is_refused(tmp_path):
    prepared = prepare(load("cross_task/digits"))
    path = tmp_path / "teacher.safetensors"
    network = build_network(prepared.experiment.teacher.network, num_classes=5, in_channels=1)
    save_file(network.state_dict(), path, {"classes": json.dumps(["5", "6", "7", "8", "9"])})
    with refused("other-classes"):
        load_teacher(prepared, path)


def test_a_checksum_of_the_file_or_of_its_tensors_is_verified(tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_file(build_network("resnet8", num_classes=5, in_channels=1).state_dict(), path)
    of_tensors = weights_name(read_weight_file(path))
    for pin in (sha256(path), f"sha256:{sha256(path)}", of_tensors):
        words = ["teacher.network=resnet8", f"teacher.checkpoint={path}", f"teacher.sha256={pin}"]
        check_checksum(load("cross_task/digits", words).experiment.teacher, path)
    words[-1] = f"teacher.sha256=tensors:{sha256(path)}"
    with refused("other-checksum"):
        check_checksum(load("cross_task/digits", words).experiment.teacher, path)


def test_a_checkpoint_of_another_checksum_is_refused(tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_file(build_network("resnet8", num_classes=5, in_channels=1).state_dict(), path)
    words = ["teacher.network=resnet8", f"teacher.checkpoint={path}", f"teacher.sha256={'ab' * 32}"]
    with refused("other-checksum"):
        load_teacher(prepare(load("cross_task/digits", words)), path)


OWN = [
    "teacher.classes=file",
    "task={name: cross_task, size: null, student_classes: ['1', '2', '3'], match: '\\d'}",
]


def own_teacher(path: Path, *, head: float = 1.0) -> Path:
    """A resnet8 of five classes, three of which are digits by another name."""
    torch.manual_seed(0)
    state = build_network("resnet8", num_classes=5, in_channels=1).state_dict()
    state["fc.weight"] = head * state["fc.weight"]
    save_file(state, path, {"classes": json.dumps(["digit 3", "cat", "digit 1", "dog", "digit 9"])})
    return path


def test_a_teacher_keeps_classes_of_its_own_which_the_task_relates(tmp_path: Path) -> None:
    words = [*OWN, "teacher.network=resnet8", f"teacher.checkpoint={own_teacher(tmp_path / 'w.safetensors')}"]
    teacher, prepared = load_teacher(prepare(load("cross_task/digits", words)), tmp_path / "w.safetensors")
    relation = prepared.problem.relation
    assert teacher.space.names == ("digit 3", "cat", "digit 1", "dog", "digit 9")
    assert relation.kind == "overlapping"
    assert (relation.teacher_index.tolist(), relation.student_index.tolist()) == ([2, 0], [0, 2])
    assert len(prepared.problem.student.space) == 3
    counted = [*words, "task.teacher_classes=['digit 1', 'cat']"]
    assert prepare(load("cross_task/digits", counted)).problem.relation.teacher_index.tolist() == [2]


def test_a_teacher_without_classes_is_its_body_whatever_head_its_file_has(tmp_path: Path) -> None:
    hashes = set()
    for name, factor in (("one", 1.0), ("other", 2.0), ("none", None)):
        path = own_teacher(tmp_path / f"{name}.safetensors", head=factor or 1.0)
        if factor is None:
            tensors = load_file(path)
            save_file({key: value for key, value in tensors.items() if not key.startswith("fc.")}, path)
        words = [*OWN[1:], "teacher.network=resnet8", f"teacher.checkpoint={path}", "teacher.classes=null"]
        prepared = prepare(load("cross_task/digits", [*words, "method=sp"]))
        teacher, prepared = load_teacher(prepared, path)
        hashes.add(teacher.state_hash())
        assert prepared.problem.relation.kind == "none"
    assert len(hashes) == 1
    with refused("method-not-applicable") as caught:
        prepare(load("cross_task/digits", [*words, "method=kd"]))
    assert "has no classes" in str(caught.value)
    assert "sp" in str(caught.value)
    for method in ("refilled_weighted", "sp"):  # by the teacher's confidence, and at its logits
        at_logits = (
            ["method.stages.distil.terms.sp.at={student: logits, teacher: logits}"] if method == "sp" else []
        )
        with refused("method-not-applicable") as caught:
            prepare(load("cross_task/digits", [*words, f"method={method}", *at_logits]))
        assert "reads the teacher's logits" in str(caught.value)


def test_a_standard_task_and_a_file_of_other_classes_say_what_to_do(tmp_path: Path) -> None:
    path = own_teacher(tmp_path / "w.safetensors")
    words = ["teacher.network=resnet8", f"teacher.checkpoint={path}"]
    with refused("other-classes") as caught:
        prepare(load("cross_task/digits", [*words, "teacher.classes=file", "task={name: standard}"]))
    assert "cross_task" in str(caught.value)
    with refused("other-classes") as caught:
        load_teacher(prepare(load("cross_task/digits", words)), path)
    assert "teacher.classes=file" in str(caught.value)
    torch.save(build_network("resnet8", num_classes=7, in_channels=1).state_dict(), tmp_path / "w.pth")
    words = [*OWN[1:], "teacher.network=resnet8", f"teacher.checkpoint={tmp_path / 'w.pth'}"]
    for classes in ([], ["teacher.classes=[a, b]"]):  # the task's, and a list of another length than the head
        with refused("other-classes") as caught:
            load_teacher(prepare(load("cross_task/digits", [*words[1:], *classes])), tmp_path / "w.pth")
        assert "name the 7 by teacher.classes" in str(caught.value)


def test_a_librarys_weights_are_pinned_by_their_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_hubs_cache(
        empty_caches(tmp_path, monkeypatch), "timm/resnet10t.c3_in1k", timm.create_model("resnet10t")
    )
    words = [
        "teacher={network: timm/resnet10t, pretrained: true, image_size: 32}",
        "data.channels=3",
        "method=sp",
    ]
    words += ["task={name: cross_task, size: null, shift: 0}"]
    with refused("other-checksum") as caught:
        load_teacher(prepare(load("cross_task/digits", [*words, f"teacher.sha256={'a' * 64}"])), None)
    name = re.search(r"tensors:[0-9a-f]{64}", str(caught.value))
    assert name is not None
    teacher, prepared = load_teacher(
        prepare(load("cross_task/digits", [*words, f"teacher.sha256={name[0]}"])), None
    )
    assert len(teacher.space) == 1000
    assert teacher.statistics_from == "from what the library says of timm/resnet10t c3_in1k"
    assert prepared.problem.relation.kind == "disjoint"  # from digits
    with refused("other-checksum") as caught:
        load_teacher(prepare(load("cross_task/digits", [*words, f"teacher.sha256=tensors:{'0' * 64}"])), None)
    assert "teacher.pretrained timm/resnet10t c3_in1k" in str(caught.value)


def test_a_list_of_classes_is_the_files_where_it_states_them(tmp_path: Path) -> None:
    path = own_teacher(tmp_path / "w.safetensors")
    words = [*OWN[1:], "teacher.network=resnet8", f"teacher.checkpoint={path}"]
    other = "teacher.classes=['digit 1', 'cat', 'digit 3', 'dog', 'digit 9']"
    with refused("other-classes"):
        load_teacher(prepare(load("cross_task/digits", [*words, other])), path)
