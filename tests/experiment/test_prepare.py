"""Builders: splits before classes, teachers by metadata, two data sets with aliases."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gkd.config.load import load
from gkd.experiment.prepare import prepare
from gkd.experiment.results import weight_metadata
from gkd.experiment.sources import load_source
from gkd.experiment.teachers import load_teacher, teacher_experiment
from gkd.models import build_network
from gkd.training.device import choose_dtype
from tests.refusals import refused


def write_zip(path: Path, names: list[str]) -> Path:
    generator = np.random.default_rng(len(names))
    with zipfile.ZipFile(path, "w") as archive:
        for split in ("train", "test"):
            for name in names:
                for number in range(8):
                    with archive.open(f"{split}/{name}/{number}.png", "w") as out:
                        pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                        Image.fromarray(pixels).save(out, "PNG")
    return path


def same_images(a, b) -> bool:
    """Whether two image sets share an image."""
    ours = {image.numpy().tobytes() for image in a.images}
    return any(image.numpy().tobytes() in ours for image in b.images)


def test_teacher_and_student_share_one_validation_split_that_neither_trains_on():
    prepared = prepare(load("quickstart", ["task.shift=2"]))
    validation = load_source(prepared.experiment.data).validation
    assert not same_images(prepared.problem.student.train, validation)
    teacher = prepare(teacher_experiment(prepared))
    assert not same_images(teacher.problem.student.train, validation)
    assert teacher.problem.student.train.class_counts().min() > 50  # the student's limit is not the teacher's


def test_per_class_draws_by_seed_from_what_validation_leaves():
    first, again, other = (prepare(load("quickstart", [f"run.seed={seed}"])) for seed in (0, 0, 1))
    train = first.problem.student.train
    assert train.class_counts().tolist() == [5] * 5
    assert torch.equal(train.images, again.problem.student.train.images)
    assert not torch.equal(train.images, other.problem.student.train.images)
    fixed = [prepare(load("quickstart", [f"run.seed={s}", "data.subset_seed=3"])) for s in (0, 1)]
    assert torch.equal(fixed[0].problem.student.train.images, fixed[1].problem.student.train.images)


def test_episodes_that_the_images_cannot_fill_are_refused_before_training():
    with refused("too-few-classes"):
        prepare(load("quickstart", ["method=protonet"]))
    few = ["method=refilled_episodic", "method.stages.episodes.episodes={ways: 5, shots: 2, queries: 4}"]
    with refused("too-few-images"):
        prepare(load("quickstart", few))
    prepare(load("quickstart", [*few, "data.per_class=6"]))


def test_statistics_that_do_not_fit_the_channels_are_refused():
    words = ["data.mean=[0.5,0.5,0.5]", "data.std=[0.2,0.2,0.2]"]
    with refused("other-channels"):
        prepare(load("quickstart", words))
    # Those given are the student's: a teacher that sees other channels has its own.
    prepared = prepare(load("quickstart", [*words, "data.channels=3", "data.teacher_view.channels=1"]))
    assert prepared.settings.mean == (0.5, 0.5, 0.5)
    assert len(prepare(teacher_experiment(prepared)).settings.mean) == 1


def test_a_view_of_the_students_own_size_is_no_second_copy():
    same, larger = (
        prepare(load("quickstart", [f"data.teacher_view.image_size={size}"])).problem.student.train
        for size in (8, 16)
    )
    assert same.teacher_images is None
    assert larger.as_teacher_sees.size == (16, 16)


def test_what_the_teacher_sees_is_said_once_and_by_its_size(tmp_path):
    root = write_zip(tmp_path / "images.zip", ["a", "b"])
    data = "teacher.data={name: digits, channels: 3, image_size: 12}"
    words = ["data.name=folder", f"data.root={root}", data, "data.validation={per_class: 2}"]
    words += ["task.size=null", "task.shift=0", "data.per_class=null", "method=sp"]
    for view in ("null", "{draws: own}", "{augment: none}"):
        with refused("other-image-size"):
            prepare(load("quickstart", [*words, f"data.teacher_view={view}"]))
    prepare(load("quickstart", [*words, "data.teacher_view={image_size: 8}"]))
    with refused("invalid-config"):
        load("quickstart", [*words, "teacher.data.teacher_view={image_size: 8}"])


def test_a_shared_teacher_is_one_run_whatever_the_student():
    variants = (["task.shift=5"], ["method=sp"], ["run.seed=4"], ["data.views=3"], ["data.per_class=9"])
    base = teacher_experiment(prepare(load("quickstart"))).identity
    assert {teacher_experiment(prepare(load("quickstart", words))).identity for words in variants} == {base}
    assert teacher_experiment(prepare(load("quickstart", ["teacher.train.epochs=7"]))).identity != base


def test_the_columns_of_a_checkpoint_are_those_that_it_says(tmp_path):
    prepared = prepare(load("quickstart", ["task.shift=2"]))
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
        teacher, _ = load_teacher(prepare(load("quickstart", words)), path)
        assert len(teacher.network.maps) == 2
        assert teacher.network.embedding_dim == 24
    other = [VIT, "teacher.options={img_size: 8, patch_size: 2}"]
    with refused("other-options"):
        load_teacher(prepare(load("quickstart", other)), path)


def test_a_library_s_own_file_takes_the_options_of_the_config(tmp_path):
    network = build_network(VIT.split("=")[1], num_classes=5, in_channels=1, **OPTIONS)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    teacher, _ = load_teacher(prepare(load("quickstart", [VIT, WITH_OPTIONS])), tmp_path / "vit.pth")
    assert teacher.network.embedding_dim == 24


def test_the_run_that_trains_a_teacher_builds_the_same_network():
    words = [VIT, WITH_OPTIONS, "teacher.taps={head: head, maps: [blocks.0]}"]
    student = teacher_experiment(prepare(load("quickstart", words))).experiment.student
    assert student.options == OPTIONS
    assert student.taps.head == "head"
    other = [*words[:2], "teacher.taps={head: head, maps: [blocks.1]}"]
    first, second = (teacher_experiment(prepare(load("quickstart", w))).identity for w in (words, other))
    assert first == second  # which maps a loss reads later changes nothing of the teacher
    cut = [
        *words[:2],
        "teacher.taps={head: head, maps: [blocks.0], stages: [[patch_embed, blocks.0], [norm]]}",
    ]
    assert teacher_experiment(prepare(load("quickstart", cut))).identity == first


def test_a_weight_file_says_all_that_builds_its_network_again():
    words = ["student.network=wrn_10_1", "student.options={dropout: 0.1}", "student.taps={maps: [block1]}"]
    header = weight_metadata(prepare(load("quickstart", words))).to_header()
    assert header["network"] == "wrn_10_1"
    assert json.loads(header["options"]) == {"dropout": 0.1}
    assert json.loads(header["taps"]) == {"maps": ["block1"]}
    assert header["image_shape"] == "1,8,8"
    assert not {"options", "taps"} & weight_metadata(prepare(load("quickstart"))).to_header().keys()


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
        prepare(load("quickstart", words))


def test_a_checkpoint_of_other_classes_is_refused(tmp_path):
    prepared = prepare(load("quickstart"))
    path = tmp_path / "teacher.safetensors"
    network = build_network(prepared.experiment.teacher.network, num_classes=5, in_channels=1)
    save_file(network.state_dict(), path, {"classes": json.dumps(["5", "6", "7", "8", "9"])})
    with refused("other-classes"):
        load_teacher(prepared, path)


def test_two_data_sets_meet_by_alias(tmp_path):
    teacher = write_zip(tmp_path / "teacher.zip", ["automobile", "bird", "ship"])
    student = write_zip(tmp_path / "student.zip", ["bird", "boat", "car", "tree"])
    config = tmp_path / "two.yaml"
    config.write_text(
        f"""
task: {{name: cross_task, aliases: {{car: automobile, boat: ship}}}}
data: {{name: folder, root: {student}, validation: {{per_class: 2}}, batch_size: 8}}
teacher: {{network: resnet8, data: {{name: folder, root: {teacher}, validation: {{per_class: 2}}, batch_size: 8}}}}
student: {{network: resnet8}}
method: kd
"""
    )
    prepared = prepare(load(config))
    relation = prepared.problem.relation
    assert relation.kind == "overlapping"
    assert relation.student_index.tolist() == [0, 1, 2]
    assert [relation.teacher.names[i] for i in relation.teacher_index] == ["bird", "ship", "automobile"]
    assert len(prepared.problem.teacher.train) == 18


def test_auto_precision_is_bf16_only_where_the_machine_has_it(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert choose_dtype("auto", cpu) == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_dtype("auto", cpu) == torch.bfloat16
    assert choose_dtype("float32", cpu) == torch.float32


def test_a_checkpoint_of_another_checksum_is_refused(tmp_path):
    path = tmp_path / "teacher.safetensors"
    save_file(build_network("resnet8", num_classes=5, in_channels=1).state_dict(), path)
    words = ["teacher.network=resnet8", f"teacher.checkpoint={path}", f"teacher.sha256={'ab' * 32}"]
    with refused("other-checksum"):
        load_teacher(prepare(load("quickstart", words)), path)


def test_images_of_another_fingerprint_are_refused(tmp_path):
    path = tmp_path / "train" / "cat" / "0.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"never decoded")
    words = ["data.name=folder", f"data.root={tmp_path}", f"data.fingerprint={'ab' * 32}"]
    with refused("other-images"):
        prepare(load("quickstart", words))
