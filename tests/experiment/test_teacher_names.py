"""Vectors of class names from a config: a file, or the text tower of the teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from gkd.commands.dry_run import dry_run
from gkd.config.load import load
from gkd.config.resolve import Resolved
from gkd.core.class_vectors import ClassVectors
from gkd.core.labels import LabelSpace
from gkd.distill.side import centres_of_names
from gkd.experiment.prepare import prepare
from gkd.experiment.teachers import check_before_training, load_teacher, random_teacher
from gkd.storage.class_vector_files import write_class_vectors
from gkd.training.stage_run import Position, StageRun
from tests.clip_helpers import register, whole
from tests.refusals import refused

WORDS = (
    "method=promptkd",
    "task={name: cross_task, size: 5, shift: 5}",
    "teacher.network=resnet8",
    "run.threads=1",
)


def names_file(path: Path, names: str = "0123456789", dim: int = 64) -> Path:
    write_class_vectors(path, ClassVectors(LabelSpace([*names]), torch.eye(len(names), dim)))
    return path


def test_a_file_of_names_is_read_where_a_term_reads_it(tmp_path: Path) -> None:
    path = names_file(tmp_path / "names.safetensors")
    words = [*WORDS, f"teacher.names={path}"]
    prepared = prepare(load("cross_task/digits", words))
    teacher = random_teacher(prepared)
    centres = centres_of_names("induced", teacher, prepared.problem.relation)
    assert torch.equal(centres, torch.eye(10, 64)[5:])
    of_others = prepare(load("cross_task/digits", [*words, "method=sp"]))
    assert random_teacher(of_others).names is None


def test_a_names_file_counts_by_its_content_and_where_it_is_read(tmp_path: Path) -> None:
    one, two = (names_file(tmp_path / name) for name in ("one.safetensors", "two.safetensors"))
    other = names_file(tmp_path / "other.safetensors", "9876543210")

    def identity(*words: str) -> str:
        return load("cross_task/digits", [*WORDS, *words]).identity

    assert identity(f"teacher.names={one}") == identity(f"teacher.names={two}")
    assert identity(f"teacher.names={one}") != identity(f"teacher.names={other}")
    assert identity("method=sp", f"teacher.names={one}") == identity("method=sp")


@pytest.mark.parametrize(
    ("names", "dim", "code"),
    [
        ("56789", 64, None),
        ("5678", 64, "names-missing"),
        ("56789", 32, "other-dimension"),
        ("", 0, "names-missing"),
    ],
)
def test_names_that_do_not_fit_are_refused_before_training(
    names: str, dim: int, code: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [f"teacher.names={names_file(tmp_path / 'n.safetensors', names, dim)}"] if names else []
    if code is None:
        dry_run(load("cross_task/digits", [*WORDS, *given]), Console(quiet=True))
        return
    with refused(code):  # before the teacher is trained
        check_before_training(prepare(load("cross_task/digits", [*WORDS, *given])))


def test_a_clip_teaches_by_config_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GKD_CACHE", str(tmp_path / "cache"))
    register(tmp_path)
    clip = whole("gkd-tiny-vit", tmp_path / "clip.safetensors")
    teacher = "teacher={network: open_clip/gkd-tiny-vit, checkpoint: %s, classes: null, image_size: 32, names: true}"
    words = ["task={name: cross_task, size: null, shift: 0}", teacher % (tmp_path / "clip.safetensors")]
    words += ["data.channels=3", "run.threads=1", "method=promptkd"]
    resolved = load("cross_task/digits", words)
    loaded, prepared = load_teacher(prepare(resolved), tmp_path / "clip.safetensors")
    import open_clip

    prompts = open_clip.get_tokenizer("gkd-tiny-vit")([f"a photo of a {digit}." for digit in range(10)])
    with torch.no_grad():
        expected = clip.encode_text(prompts, normalize=True)
    found = centres_of_names("induced", loaded, prepared.problem.relation)
    torch.testing.assert_close(found, expected)
    dry_run(resolved, Console(quiet=True))
    with refused("no-text-tower"):
        random_teacher(prepare(load("cross_task/digits", [*WORDS, "teacher.names=true"])))


def test_one_of_several_teachers_gives_the_vectors_and_another_needs_none(tmp_path: Path) -> None:
    path = names_file(tmp_path / "names.safetensors")

    def named(teacher: str) -> Resolved:
        words = [f"teachers={{first: {{network: resnet8}}, told: {{network: resnet8, names: {path}}}}}"]
        term = "method.stages.distil.terms.induced.teacher"
        return load(
            "cross_task/digits", [*WORDS[:2], "run.threads=1", "teacher=null", *words, f"{term}={teacher}"]
        )

    run, loss = named("told"), "loss/induced"
    prepared = prepare(run)
    teachers = {"told": random_teacher(prepared.of_teacher("told"))}
    (stage,) = run.experiment.method.stages.values()
    settings, student = prepared.settings, prepared.student
    tried = StageRun("distil", stage, 1, student, teachers, prepared.problem, settings, Position())
    assert torch.equal(tried.distiller.sides["told"].names, torch.eye(10, 64)[5:])
    assert loss in tried.distiller(next(tried.epoch_batches()))
    for teacher in ("first", "[told, first]", "all"):
        with refused("names-missing"):
            check_before_training(prepare(named(teacher)))
