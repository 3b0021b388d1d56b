"""Builders: splits before classes, statistics and views that fit, two data sets with aliases."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from gkd.commands.dry_run import dry_run
from gkd.config.load import load
from gkd.core.errors import UserError
from gkd.experiment.prepare import prepare
from gkd.experiment.sources import load_source
from gkd.experiment.teachers import teacher_experiment
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
    prepared = prepare(load("cross_task/digits", ["task.shift=2"]))
    validation = load_source(prepared.experiment.data).validation
    assert not same_images(prepared.problem.student.train, validation)
    teacher = prepare(teacher_experiment(prepared))
    assert not same_images(teacher.problem.student.train, validation)
    assert teacher.problem.student.train.class_counts().min() > 50  # the student's limit is not the teacher's


def test_per_class_draws_by_seed_from_what_validation_leaves():
    first, again, other = (prepare(load("cross_task/digits", [f"run.seed={seed}"])) for seed in (0, 0, 1))
    train = first.problem.student.train
    assert train.class_counts().tolist() == [5] * 5
    assert torch.equal(train.images, again.problem.student.train.images)
    assert not torch.equal(train.images, other.problem.student.train.images)
    fixed = [prepare(load("cross_task/digits", [f"run.seed={s}", "data.subset_seed=3"])) for s in (0, 1)]
    assert torch.equal(fixed[0].problem.student.train.images, fixed[1].problem.student.train.images)


def test_episodes_that_the_images_cannot_fill_are_refused_before_training():
    with refused("too-few-classes"):
        prepare(load("cross_task/digits", ["method=protonet"]))
    few = ["method=refilled_episodic", "method.stages.episodes.episodes={ways: 5, shots: 2, queries: 4}"]
    with refused("too-few-images"):
        prepare(load("cross_task/digits", few))
    prepare(load("cross_task/digits", [*few, "data.per_class=6"]))


def test_statistics_that_do_not_fit_the_channels_are_refused():
    words = ["data.mean=[0.5,0.5,0.5]", "data.std=[0.2,0.2,0.2]"]
    with refused("other-channels"):
        prepare(load("cross_task/digits", words))
    # Those given are the student's: a teacher that sees other channels has its own.
    prepared = prepare(load("cross_task/digits", [*words, "data.channels=3", "data.teacher_view.channels=1"]))
    assert prepared.settings.mean == (0.5, 0.5, 0.5)
    assert len(prepare(teacher_experiment(prepared)).settings.mean) == 1


def test_a_view_of_the_students_own_size_is_no_second_copy():
    same, larger = (
        prepare(load("cross_task/digits", [f"data.teacher_view.image_size={size}"])).problem.student.train
        for size in (8, 16)
    )
    assert same.teacher_images is None
    assert larger.as_teacher_sees.size == (16, 16)


def test_the_teachers_images_are_resized_by_its_own_filter():
    def seen(*words):
        return prepare(load("cross_task/digits", list(words))).problem.student.train

    plain, cubic = (
        seen(f"data.teacher_view={{image_size: 16, interpolation: {name}}}")
        for name in ("bilinear", "bicubic")
    )
    assert torch.equal(plain.images, cubic.images)
    assert not torch.equal(plain.teacher_images, cubic.teacher_images)
    assert seen("data.teacher_view.interpolation=bicubic").teacher_images is None  # their own size already
    resized = seen("data.teacher_view.interpolation=bicubic", "data.image_size=16")
    assert torch.equal(resized.teacher_images, cubic.teacher_images)
    with refused("other-interpolation"):
        teacher_experiment(
            prepare(load("cross_task/digits", ["data.teacher_view={image_size: 16, interpolation: bicubic}"]))
        )


def test_an_augmentation_that_cannot_be_on_the_images_is_refused_before_training():
    for augment in ("v2:Resize(size=4)", "crop+v2:Grayscale(num_output_channels=3)+mixup"):
        with refused("library-transform-shape"):
            prepare(load("cross_task/digits", ["method=kd", "task.shift=0", f"data.augment={augment}"]))
    view = "data.teacher_view={image_size: 12, augment: 'v2:RandomCrop(size=8)'}"
    with refused("library-transform-shape"):  # which keeps the student's size alone
        prepare(load("cross_task/digits", ["data.augment=v2:RandomCrop(size=8)", view]))
    prepare(load("cross_task/digits", ["data.augment=v2:RandomCrop(size=8)"]))


def test_what_the_teacher_sees_is_said_once_and_by_its_size(tmp_path):
    root = write_zip(tmp_path / "images.zip", ["a", "b"])
    data = "teacher.data={name: digits, channels: 3, image_size: 12}"
    words = ["data.name=folder", f"data.root={root}", data, "data.validation={per_class: 2}"]
    words += ["task.size=null", "task.shift=0", "data.per_class=null", "method=sp"]
    for view in ("null", "{draws: own}", "{augment: none}"):
        with refused("other-image-size"):
            prepare(load("cross_task/digits", [*words, f"data.teacher_view={view}"]))
    prepare(load("cross_task/digits", [*words, "data.teacher_view={image_size: 8}"]))
    with refused("invalid-config"):
        load("cross_task/digits", [*words, "teacher.data.teacher_view={image_size: 8}"])


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


DISJOINT = ("task.order=natural", "task.size=5", "task.shift=5")


def suggested(*words: str) -> list[str]:
    """The methods that the refusal of a run's method names instead."""
    with pytest.raises(UserError) as caught:
        prepare(load("cross_task/digits", words))
    assert caught.value.code == "method-not-applicable"
    found = re.search(r"Methods that work here: (.*)\.$", str(caught.value))
    return found[1].split(", ") if found else []


def test_methods_that_work_are_those_that_were_tried_on_these_networks() -> None:
    names = suggested("method=kd", *DISJOINT)
    assert {"sp", "refilled", "rkd"} <= set(names)
    assert not {"student", "mixup", "protonet", "finetune", "replay", "joint"} & set(
        names
    )  # no teacher is read
    assert not {"kd", "lwf", "icarl", "sakd"} & set(names)  # no class is shared
    assert not {"fsp"} & set(names)  # resnet8's maps have other channels than the teacher's
    assert "refilled_episodic" not in names  # the images of a class do not fill its episodes
    wide = suggested("method=kd", *DISJOINT, "teacher.network=resnet14")
    assert "fsp" in wide  # the same channels


@pytest.mark.full
@pytest.mark.parametrize("shift", [4, 5])
def test_every_method_that_is_named_passes_a_dry_run(shift: int) -> None:
    words = ("task.size=5", f"task.shift={shift}", "run.epochs=2")
    for name in suggested("method=kd", *words):
        dry_run(load("cross_task/digits", [*words, f"method={name}"]), Console(quiet=True))


def test_where_a_teachers_outputs_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GKD_CACHE", str(tmp_path))
    words = ("run.teacher_cache=disk", "run.teacher_cache_precision=bf16")
    plain, kept = (prepare(load("cross_task/digits", each)).settings for each in ([], words))
    assert (plain.outputs_folder, plain.outputs_rounded) == (None, False)
    assert (kept.outputs_folder, kept.outputs_rounded) == (tmp_path / "teacher_outputs", True)
