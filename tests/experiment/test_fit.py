"""fit(): the loop on the caller's networks and data; run(): ``gkd run`` from Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import gkd
from gkd.core.batch import NO_LABEL
from gkd.data import ImageSet
from gkd.experiment.run_folder import locked
from gkd.models import build_network
from tests.cli_helpers import write_photos
from tests.refusals import refused

NAMES = ("a", "b", "c", "d")
MakeSet = Callable[..., ImageSet]


class Listed(Dataset):
    """The images of a set as a torch data set; the jittered one draws a border anew each time."""

    def __init__(self, images: ImageSet, *, jitter: bool = False) -> None:
        self.images, self.jitter = images, jitter
        self.targets = images.labels.tolist()
        self.classes = list(images.space)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        pixels = self.images.images[number].clone()
        if self.jitter:
            pixels[0, 0] = torch.from_numpy(np.random.default_rng().integers(0, 256, 8, dtype=np.uint8))
        return pixels, self.targets[number]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_network("resnet8", num_classes=len(NAMES), in_channels=1)


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


WORDS = {"epochs": 4, "batch_size": 16, "optimiser": {"lr": 0.05}, "precision": "float32"}


def test_a_student_learns_from_images_in_any_form(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same images give the same bits, and nothing is written."""
    train, test = make_set(NAMES, 64), make_set(NAMES, 40, seed=5)
    teacher = gkd.fit(network(1), train, "student", **{**WORDS, "epochs": 20}).student
    loader = DataLoader(Listed(train), batch_size=16, shuffle=True)
    monkeypatch.chdir(tmp_path)
    outcomes = [
        gkd.fit(network(), data, "kd", teacher=teacher, test=test, **{**words, "epochs": 20})
        for data, words in (
            (train, WORDS),
            (Listed(train), WORDS),
            (loader, {key: value for key, value in WORDS.items() if key != "batch_size"}),
        )
    ]
    assert all(same(outcomes[0].student, each.student) for each in outcomes[1:])
    assert not list(tmp_path.iterdir())
    metrics = outcomes[0].metrics
    assert metrics["test/last"] > 60  # chance is 25
    assert 1 <= metrics["epoch"] <= 20
    assert not outcomes[0].student.training


def test_without_a_method_it_takes_auto_and_without_a_teacher_the_student(make_set: MakeSet) -> None:
    train = make_set(NAMES, 64)
    for teacher, named in ((network(1), "auto"), (None, "student")):
        unnamed = gkd.fit(network(), train, teacher=teacher, **WORDS).student
        assert same(unnamed, gkd.fit(network(), train, named, teacher=teacher, **WORDS).student)


def test_a_folder_keeps_what_was_done(make_set: MakeSet, tmp_path: Path) -> None:
    train = make_set(NAMES, 64)
    whole = gkd.fit(network(), train, "student", folder=tmp_path / "run", **WORDS)
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 4
    again = gkd.fit(network(3), train, "student", folder=tmp_path / "run", **WORDS)
    assert same(whole.student, again.student)  # read from the checkpoint, whatever it starts from
    written = gkd.fit(network(), train, "student", **WORDS)
    assert same(whole.student, written.student)


def test_a_folder_is_continued_by_the_call_that_began_it_alone(make_set: MakeSet, tmp_path: Path) -> None:
    train, folder = make_set(NAMES, 64), tmp_path / "run"
    guided = {"method": "kd", "teacher": network(1), "folder": folder, **WORDS}
    whole = gkd.fit(network(), train, **guided)
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    wide = build_network("resnet8x4", num_classes=len(NAMES), in_channels=1)
    others = [
        {"seed": 1}, {"epochs": 5}, {"batch_size": 8}, {"augment": "crop-flip"}, {"optimiser": {"lr": 0.01}},
        {"method": "student"}, {"teacher": network(2)}, {"data": make_set(NAMES, 63)}, {"student": wide},
        {"validation": make_set(NAMES, 12, seed=4)}, {"precision": "bf16"},
    ]  # fmt: skip
    for other in others:
        with refused("other-run"):
            gkd.fit(**{"student": network(), "data": train, **guided, **other})
    assert kept == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert same(whole.student, gkd.fit(network(), train, **guided, test=make_set(NAMES, 9)).student)


def test_a_call_that_is_refused_leaves_its_folder_to_the_next(make_set: MakeSet, tmp_path: Path) -> None:
    train, folder = make_set(NAMES, 64), tmp_path / "run"
    with refused("other-widths"):
        wide = build_network("resnet8x4", num_classes=len(NAMES), in_channels=1)
        gkd.fit(network(), train, "coss", teacher=wide, folder=folder, **WORDS)
    gkd.fit(network(), train, "coss", teacher=network(1), folder=folder, **WORDS)
    (folder / "fit.json").unlink()  # as in a folder of `gkd run`
    with refused("other-run"):
        gkd.fit(network(), train, "coss", teacher=network(1), folder=folder, **WORDS)
    (tmp_path / "file").write_text("")
    with refused("run-folder-unwritable"):
        gkd.fit(network(), train, "student", folder=tmp_path / "file" / "run", **WORDS)


def test_one_process_works_in_a_folder(make_set: MakeSet, tmp_path: Path) -> None:
    with locked(tmp_path, None), refused("run-folder-busy"):
        gkd.fit(network(), make_set(NAMES, 64), "student", folder=tmp_path, **WORDS)


def test_terms_are_a_method_of_one_stage(make_set: MakeSet) -> None:
    train = make_set(NAMES, 64)
    terms = {"cross_entropy": gkd.Term(loss="cross_entropy"), "pkt": gkd.Term(loss="pkt", weight=10)}
    outcome = gkd.fit(network(), train, terms, teacher=network(1), **WORDS)
    assert not same(outcome.student, network())
    with refused("epochs-missing"):
        gkd.fit(network(), train, terms, teacher=network(1))


def test_any_module_is_tapped_and_a_teacher_of_other_columns_has_unnamed_classes(make_set: MakeSet) -> None:
    train = make_set(NAMES, 64)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 9))
    terms = {"cross_entropy": gkd.Term(loss="cross_entropy"), "pkt": gkd.Term(loss="pkt", weight=10)}
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    gkd.fit(plain, train, terms, teacher=wide, **WORDS)
    assert all(torch.equal(value, before[name]) for name, value in wide.state_dict().items())
    with refused("method-not-applicable"):
        gkd.fit(plain, train, "kd", teacher=wide, **WORDS)


def test_mistakes_are_named(make_set: MakeSet) -> None:
    train = make_set(NAMES, 64)
    with refused("random-items"):
        gkd.fit(network(), Listed(train, jitter=True), "student", **WORDS)
    with refused("method-not-applicable"):
        gkd.fit(network(), train, "sp", **WORDS)
    with refused("other-classes"):
        gkd.fit(network(), make_set(NAMES[:3], 30), "student", **WORDS)
    with refused("needs-steps"):
        gkd.fit(network(), train, "wa", teacher=network(1), **WORDS)
    for words in ({"seed": -1}, {"batch_size": 1}, {"batch_size": "8"}, {"epochs": 0}, {"epochs": "3"}):
        with refused("number-out-of-range"):
            gkd.fit(network(), train, "student", **{**WORDS, **words})
    with refused("unknown-precision"):
        gkd.fit(network(), train, "student", **{**WORDS, "precision": "fp8"})
    with refused("invalid-method"):
        gkd.fit(network(), train, {"kd": "x"}, **WORDS)  # type: ignore[dict-item]
    larger = ImageSet(torch.zeros(8, 1, 9, 9, dtype=torch.uint8), torch.arange(8) % 4, train.space)
    for part in ("validation", "test"):
        with refused("other-image-shape"):
            gkd.fit(network(), train, "student", **{part: larger}, **WORDS)
        with refused("class-without-images"):
            gkd.fit(network(), train, "student", **{part: make_set(NAMES[:3], 9)}, **WORDS)
    with refused("not-a-module"):
        gkd.fit(None, train, "student", **WORDS)  # type: ignore[arg-type]
    with refused("invalid-optimiser"):
        gkd.fit(network(), train, "student", **{**WORDS, "optimiser": "adamw"})
    with refused("labels-missing"):
        gkd.fit(network(), [1, 2, 3], "student", **WORDS)  # type: ignore[arg-type]
    with refused("invalid-optimiser"):
        gkd.fit(network(), train, "student", **{**WORDS, "optimiser": {"lrr": 1}})
    with pytest.raises(ValueError, match="Did you mean 'refilled'"):  # a UserError is one
        gkd.fit(network(), train, "refiled", **WORDS)


def test_run_is_gkd_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a name with overrides, and from sections; the second is the first, found again."""
    monkeypatch.chdir(tmp_path)
    first = gkd.run("cross_task/digits", method="student", run={"epochs": 2, "threads": 1}, **{"run.seed": 3})
    assert first.folder is not None
    assert first.folder.name == "seed3"
    assert not first.student.training
    assert set(first.metrics) == {"validation", "epoch", "test/last", "test/best"}
    with refused("invalid-config"):
        gkd.run("cross_task/digits", run={"epoch": 2})
    sections = {
        "task": {"name": "standard"},
        "data": {"name": "digits", "validation": {"per_class": 20}},
        "student": {"network": "resnet8"},
        "method": "student",
        "run": {"epochs": 1, "threads": 1},
    }
    outcome = gkd.run(sections, run={"precision": "float32"}, evaluate={"metrics": ["macro_f1"]})
    assert len(outcome.mean) == 1
    assert outcome.metrics["test/last"] > 20
    assert 0 < outcome.metrics["test/last/macro_f1"] < 100


def test_run_looks_at_image_files_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process, between two calls, the images of a folder may have changed."""
    monkeypatch.chdir(tmp_path)
    sections = {
        "task": {"name": "standard"},
        "data": {"name": "folder", "root": "photos.zip", "validation": {"per_class": 1}, "batch_size": 4},
        "student": {"network": "resnet8"},
        "method": "student",
        "run": {"epochs": 1, "threads": 1},
    }
    folders = set()
    for seed in (0, 1):
        write_photos(tmp_path / "photos.zip", seed=seed)
        folders.add(gkd.run(sections).folder)
    assert len(folders) == 2


def test_images_without_labels_are_an_argument(make_set: MakeSet, tmp_path: Path) -> None:
    """A method that trains on them wants them, and a folder is of the images that it was begun with."""
    data, teacher = make_set(NAMES, 40), network(5)
    bare = replace(make_set(NAMES, 24, seed=3), labels=torch.full((24,), NO_LABEL))
    words = {**WORDS, "method": "unlabelled_first", "teacher": teacher, "epochs": 2}
    with refused("no-unlabelled-images"):
        gkd.fit(network(), data, **words)
    with refused("other-image-shape"):
        gkd.fit(network(), data, unlabelled=replace(bare, images=bare.images[:, :, :4]), **words)
    first = gkd.fit(network(), data, unlabelled=bare, folder=tmp_path / "run", **words)
    again = gkd.fit(network(), data, unlabelled=bare, **words)
    other = gkd.fit(network(), data, unlabelled=bare.select(torch.arange(16)), **words)
    assert same(first.student, again.student)
    with_labels = replace(bare, labels=torch.arange(24) % 4)
    assert same(first.student, gkd.fit(network(), data, unlabelled=with_labels, **words).student)
    assert not same(first.student, other.student)
    with refused("other-run"):
        gkd.fit(network(), data, unlabelled=bare.select(torch.arange(16)), folder=tmp_path / "run", **words)
