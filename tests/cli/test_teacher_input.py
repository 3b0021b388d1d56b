"""Bad input about a teacher that others trained: one sentence, exit code 2, nothing lost; a bad cache is made anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gkd.models import build_network
from gkd.storage import mapped_rows
from tests.cli_helpers import gkd
from tests.library_caches import empty_caches

LIBRARYS = "teacher={network: timm/resnet10t, image_size: 32, %s}"
FIVE = "['digit 3', cat, 'digit 1', dog, '%s']"
# Overrides -> what the sentence says.
SAID: dict[tuple[str, ...], str] = {
    (f"teacher.classes={FIVE % 'old digit 3'}", r"task.match=\d"): r"finds '3' in two of the teacher's classes, "
    "'digit 3' and 'old digit 3', which would be one; let it match more",
    (f"teacher.classes={FIVE % 'owl'}", r"task.match=x\d"): r"match='x\\d' is found in none of the teacher's classes",
    (f"teacher.classes={FIVE % 'owl'}", "task.match=("): "match='(' is no regular expression",
    ("teacher.classes=[cat, dog]",): "holds 5 classes ('fc.bias'), teacher.classes or the task names 2; name the 5 by",
    ("teacher.classes=twice.txt",): "teacher.classes=twice.txt: The class 'cat' appears twice",
    ("teacher.classes=names.txt",): "name the 5 by teacher.classes",
    ("teacher.classes=imagenet1k",): "teacher.classes: there is no file imagenet1k of names, one a line. Unknown label "
    "set 'imagenet1k'. Did you mean 'imagenet-1k'?",
    (LIBRARYS % "checkpoint: null, pretrained: c3_in2k", "data.channels=3"): "Unknown weights 'c3_in2k'. "
    "Did you mean 'c3_in1k'?",
    ("teacher={checkpoint: null, pretrained: true}",): "The network 'resnet8' comes without weights",
    (LIBRARYS % "checkpoint: null, pretrained: true", "data.channels=3"): "give that file as "
    "checkpoint=FILE instead of pretrained",
    (LIBRARYS % "checkpoint: 'hf://some/one/model.pth'", "data.channels=3"): "hf://some/one/model.pth cannot be had "
    "here",
}  # fmt: skip


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The command line of a run on digits, whose teacher is the resnet8 of five columns in the file w.safetensors."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(build_network("resnet8", num_classes=5, in_channels=1).state_dict(), "w.safetensors")
    task = "task={name: cross_task, size: null, student_classes: ['1', '2', '3']}"
    teacher = ("teacher.network=resnet8", "teacher.checkpoint=w.safetensors")
    return (
        "run",
        "cross_task/digits",
        task,
        "compare=null",
        "method=sp",
        *teacher,
        "run.epochs=2",
        "run.threads=1",
    )


@pytest.mark.parametrize("overrides", SAID, ids=lambda overrides: overrides[0][:40])
def test_what_is_wrong_about_a_teacher_is_told_before_training(
    overrides: tuple[str, ...],
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty_caches(tmp_path / "caches", monkeypatch)
    Path("names.txt").write_text("cat\ndog\nowl\n")
    Path("twice.txt").write_text("cat\ndog\ncat\n")
    assert gkd(*words, *overrides) == 2
    said = capsys.readouterr().err
    assert SAID[overrides] in said
    assert said.count("\n") == 1, said
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["w.safetensors"]


def test_teacher_outputs_of_another_version_or_half_written_are_computed_anew(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GKD_CACHE", str(tmp_path / "cache"))
    kept = (*words, "teacher.classes=null", "data.views=2", "data.subset_seed=0", "run.teacher_cache=disk")
    with monkeypatch.context() as earlier:
        earlier.setattr(mapped_rows, "FORMAT", "gkd rows 0")
        assert gkd(*kept, "run.out=first") == 0
    files = sorted((tmp_path / "cache").rglob("*-[01].safetensors"))
    with pytest.warns(UserWarning, match="computed again") as told:
        assert gkd(*kept, "run.out=second") == 0
    assert [str(each.message) for each in told] == [
        f"The file {path} is of another version; the teacher's outputs in it are computed again."
        for path in files
    ]
    files[1].write_bytes(files[1].read_bytes()[:-1])
    with pytest.warns(UserWarning, match=rf"{files[1].name} is damaged; .* computed again") as told:
        assert gkd(*kept, "run.out=third") == 0
    assert len(told) == 1  # the other is whole
    students = [path.read_bytes() for path in sorted(tmp_path.rglob("seed0/student.safetensors"))]
    assert len(students) == 3
    assert len(set(students)) == 1
