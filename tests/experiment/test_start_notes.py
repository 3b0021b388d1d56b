"""What a run says before it trains of choices that its user may not expect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm

from gkd.config.load import load
from gkd.config.schema import TeacherTraining
from gkd.core.labels import LabelRelation, LabelSpace
from gkd.experiment.prepare import prepare
from gkd.experiment.start_notes import _teachers_notes, training_note
from tests.cli_helpers import FAST, gkd
from tests.library_caches import empty_caches, in_hubs_cache

BATCH = "data.batch_size=1000 is more than the 25 training images, so each step is on all 25, and an epoch is one step"


def test_a_run_says_what_it_trains_first_and_what_its_batch_comes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A teacher that is there is not announced again, nor is a run that is there continued."""
    monkeypatch.chdir(tmp_path)
    words = (
        "run",
        "cross_task/digits",
        "method=kd",
        "data.batch_size=1000",
        "run.checkpoint_seconds=0",
        *FAST,
    )
    assert gkd(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "data      25 training images of 1x8x8 in memory (1.5e-06 GiB)",
        "machine   cpu, float32, 1 threads",
        f"note      {BATCH}",
    ]
    (folder,) = Path("runs/teachers/resnet8x4").glob("*/seed0")
    told = "teacher   resnet8x4 is trained first, on 5 classes for 1 epoch"
    assert lines[3] == f"{told}, in {folder}; teacher.checkpoint=FILE takes one that is trained"
    assert not any("continued" in line for line in lines)
    (run,) = Path("runs/cross_task/digits").glob("*/seed0")
    (run / "summary.json").unlink()
    newest = max((run / "checkpoints").iterdir(), key=lambda path: path.name)
    shutil.rmtree(newest)
    older = max((run / "checkpoints").iterdir(), key=lambda path: path.name)
    monkeypatch.setattr(
        "gkd.experiment.solve.check_shapes", None
    )  # which is for a teacher that is to be trained
    assert gkd(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"note      continued from {older}: stage distil, 3 of 4 epochs are done" in lines
    assert not any("is trained first" in line for line in lines)


def test_a_teacher_of_which_nothing_is_said_is_told_with_its_length() -> None:
    """Neither checkpoint nor train: 200 epochs begin."""
    told = training_note("teacher.train", "resnet8", TeacherTraining(), 10, Path("runs/t"))
    assert told == (
        "teacher   resnet8 is trained first, on 10 classes for 200 epochs (the default of teacher.train.epochs), in "
        "runs/t; teacher.checkpoint=FILE takes one that is trained"
    )
    told = training_note("student.pretrain", "resnet8", TeacherTraining(epochs=3), 4, Path("runs/s"))
    assert told.startswith(
        "student   resnet8 is trained first, on 4 classes for 3 epochs, in runs/s; student.checkpoint="
    )


@pytest.mark.parametrize(
    ("words", "notes"),
    [
        ((), ()),
        (("data.batch_size=25",), ()),
        (
            ("data.root=photos",),
            (
                "data.root=photos is not read, for digits brings its own images; data.name=folder reads photographs",
            ),
        ),
        (("data.batch_size=26",), (BATCH.replace("1000", "26"),)),
        (("data.batch_size=50", "data.per_class=10"), ()),
        (  # whose episodes are no passes over the images
            (
                "data.batch_size=30",
                "method=protonet",
                "method.stages.episodes.episodes={ways: 3, shots: 1, queries: 2}",
            ),
            (),
        ),
        (
            ("teacher.checkpoint=there.pth",),
            ("teacher.train.batch_size, teacher.train.epochs is not read, for teacher.checkpoint is given",),
        ),
        (
            ("teacher.checkpoint=there.pth", "teacher.weights=best"),
            (
                "teacher.train.batch_size, teacher.train.epochs is not read, for teacher.checkpoint is given",
                "teacher.weights=best is of a teacher that is trained here, and teacher.checkpoint is given: there.pth "
                "is taken; a run's folder has student-best.safetensors too",
            ),
        ),
        (
            ("data.per_class=null", "data.subset_seed=1"),
            ("data.subset_seed draws nothing, for data.per_class is not given and all images are taken",),
        ),
    ],
)
def test_settings_that_come_to_something_else_are_told(
    words: tuple[str, ...], notes: tuple[str, ...]
) -> None:
    assert prepare(load("cross_task/digits", ["method=kd", *words])).notes == notes


@pytest.mark.parametrize("several", [False, True])
def test_classes_that_share_wordnets_ids_and_no_name_are_told(several: bool) -> None:
    def relation(match: str | None = None) -> LabelRelation:
        ids = LabelSpace(["n01440764", "n01443537"])
        return LabelRelation(ids, LabelSpace(["n01443537_goldfish", "owl"]), match=match)

    told = "1 have one WordNet id; task.match='n\\d{8}' makes them one"
    teacher: Any = {"network": "resnet8", "checkpoint": "there.pth"}
    sections = {"teacher": None, "teachers": {"a": teacher}} if several else {"teacher": teacher}
    experiment = load(
        "cross_task/digits", [f"{key}={json.dumps(value)}" for key, value in sections.items()]
    ).experiment
    for match, notes in ((None, 1), (r"n\d{8}", 0)):
        problem: Any = SimpleNamespace(
            relation=relation(match),
            of_teacher=lambda _, each=match: SimpleNamespace(relation=relation(each)),
        )
        found = list(_teachers_notes(experiment, problem))
        assert [told in note for note in found] == [True] * notes
        assert all(note.startswith("teachers.a: ") == several for note in found)


def test_images_without_labels_that_nothing_trains_on_are_told() -> None:
    """And are not read; where a term could use them, it says how."""
    words, note = (
        ["data.unlabelled.root=/not/there"],
        "data.unlabelled is not read, for no stage of the method",
    )
    for method, more in {"student": "", "kd": "; method.stages.distil.data=both does"}.items():
        prepared = prepare(load("cross_task/digits", [*words, f"method={method}"]))
        assert f"{note} {method} trains on it{more}" in prepared.notes
        assert prepared.problem.unlabelled is None


def test_a_cache_of_outputs_that_keeps_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    told = "run.teacher_cache keeps nothing, for every epoch augments anew"
    for words, says in (
        (("run.teacher_cache=disk",), True), (("run.teacher_cache=disk", "data.views=2"), False),
        (("run.teacher_cache=disk", "method=student"), False), ((), False),
    ):  # fmt: skip
        notes = prepare(load("cross_task/digits", ["method=kd", *words])).notes
        assert any(note.startswith(told) for note in notes) == says, words


def test_weights_trained_on_images_normalised_otherwise_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = empty_caches(tmp_path, monkeypatch)
    in_hubs_cache(caches, "timm/resnet10t.c3_in1k", timm.create_model("resnet10t"))
    words = ["student={network: timm/resnet10t, pretrained: true}", "method=student", "data.channels=3"]
    said, which = (
        "the student's images are normalised by mean [0.3049,0.3049,0.3049], std ",
        "timm/resnet10t c3_in1k",
    )
    keys = ["data.mean=[0.485,0.456,0.406]", "data.std=[0.229,0.224,0.225]"]
    notes = prepare(load("cross_task/digits", words)).notes
    assert any(
        note.startswith(said) and note.endswith(f"{' '.join(keys)} does as they were") for note in notes
    )
    assert any(f"those that the weights of {which} were trained on otherwise" in note for note in notes)
    for more in (keys, ["data.channels=1"]):  # of one channel the library says nothing
        assert not any(
            "normalised by" in note for note in prepare(load("cross_task/digits", [*words, *more])).notes
        )


def test_terms_that_the_relation_leaves_out_are_told() -> None:
    term = 'method.stages.distil.terms.kd={"loss": "kd", "where": "shared"}'
    told = "the method sp goes without kd in its stage distil, for teacher and student share fewer than two classes"
    more = 'method.stages.distil.terms.kd_of_all={"loss": "kd", "where": "all-shared"}'
    told_more = (
        "the method sp goes without kd_of_all in its stage distil, for the teacher lacks classes of the "
        "student's"
    )
    for shift, says, says_more in ((5, True, True), (2, False, True), (0, False, False)):
        prepared = prepare(load("cross_task/digits", ["method=sp", term, more, f"task.shift={shift}"]))
        assert ((told in prepared.notes), (told_more in prepared.notes)) == (says, says_more)
