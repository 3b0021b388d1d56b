"""Few-shot runs and grids as a user calls them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from gkd.data.episodes import load_episodes
from gkd.few_shot.judging import unpacked
from gkd.storage.judged import EpisodeAnswers
from gkd.storage.records import read_record
from tests.cli_helpers import gkd

OTHERS = ("task.base=4", "task.novel=6", "task.episodes.ways=3")
FEW = (
    "run.epochs=2",
    "teacher.train.epochs=1",
    "run.threads=1",
    "task.episodes.count=40",
    "task.episodes.validation=20",
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run_folder(method: str) -> Path:
    (found,) = Path("runs/few_shot/digits").glob(f"{method}-*/seed0")
    return found


def test_a_run_keeps_its_episodes_what_was_right_and_a_plot(capsys):
    assert gkd("run", "few_shot/digits", "method=sp", "task.episodes.ways=[3, 5]", *FEW) == 0
    printed = capsys.readouterr().out
    for text in ("3-way 1-shot: nearest-mean", "5-way 5-shot:", "(to the teacher"):
        assert text in printed
    folder = run_folder("sp")
    summary = json.loads((folder / "summary.json").read_text())
    content = json.loads((folder / "episodes.json").read_text())
    assert content.keys() - {"manifest"} == {"last", "best", "teacher"}
    for ways in (3, 5):
        drawn = load_episodes(folder / f"episodes-{ways}-way.safetensors")
        assert (len(drawn), drawn.ways, drawn.shots, drawn.queries) == (40, ways, 5, 15)
    right = unpacked(read_record(folder / "episodes.json", EpisodeAnswers).last)["5-way 1-shot"]["cosine"]
    told = summary["last"]["few_shot"]["5-way 1-shot"]["cosine"]
    assert told["accuracy"] == pytest.approx(float(right.mean()), abs=1e-3)
    gap = summary["last"]["to_teacher"]["5-way 1-shot"]["cosine"]["accuracy"]
    teacher = summary["teacher"]["few_shot"]["5-way 1-shot"]["cosine"]["accuracy"]
    assert gap == pytest.approx(told["accuracy"] - teacher, abs=1e-3)
    assert (folder / "few_shot.png").read_bytes().startswith(b"\x89PNG")
    # Judged again, from what was saved.
    assert gkd("eval", str(folder)) == 0
    printed = capsys.readouterr().out
    assert f"cosine {told['accuracy']:.2f} ± {told['interval']:.2f} %" in printed
    # And from the weight file alone, where the task is said.
    words = (
        "data.name=digits",
        "data.validation={per_class: 20}",
        "task.name=few_shot",
        "task.base=5",
        "task.novel=5",
    )
    assert (
        gkd("eval", str(folder / "student.safetensors"), *words, "task.episodes={ways: [3, 5], count: 40}")
        == 0
    )
    printed = capsys.readouterr().out
    assert "judged as few_shot" in printed
    assert f"cosine {told['accuracy']:.2f} ± {told['interval']:.2f} %" in printed
    assert f"\naccuracy {summary['last']['accuracy']:.4g}" in printed
    assert gkd("eval", str(folder / "student.safetensors"), *words[:3], *OTHERS) == 2
    assert "choose the task's to match" in capsys.readouterr().err


def test_every_network_is_judged_on_the_same_episodes():
    for words in (("method=student",), ("method=protonet", "student.network=resnet14")):
        more = ("method.stages.episodes.episodes={ways: 5, per_epoch: 3}",) if "protonet" in words[0] else ()
        assert gkd("run", "few_shot/digits", *words, *more, *FEW) == 0
    one, other = (
        load_episodes(run_folder(name) / "episodes-5-way.safetensors") for name in ("student", "protonet")
    )
    assert one.index.equal(other.index)


def test_a_student_without_a_head_is_judged_by_class_means(capsys):
    """ProtoNet trains no head: what it is worth on its own classes is said of its embedding."""
    words = (
        "method=protonet",
        "method.stages.episodes.episodes={ways: 5, per_epoch: 20}",
        "optimiser.lr=0.001",
    )
    assert gkd("run", "few_shot/digits", *words, *FEW) == 0
    printed = capsys.readouterr().out
    assert "by the nearest class mean (no head was trained)" in printed
    summary = json.loads((run_folder("protonet") / "summary.json").read_text())
    assert summary["judged_by"] == "nearest class mean"
    assert summary["last"]["accuracy"] > 50  # of five classes
    assert summary["last"]["ece"] is None
    capsys.readouterr()
    assert gkd("eval", str(run_folder("protonet"))) == 0
    assert f"last accuracy {summary['last']['accuracy']:.4g}\n" in capsys.readouterr().out


def test_a_grid_compares_on_the_same_episodes(capsys):
    grid = ("compare", "few_shot/digits", "compare.methods=[student, sp]", "compare.seeds=[0, 1]", *FEW)
    assert gkd(*grid) == 0
    printed = capsys.readouterr().out
    assert "| teacher | nearest-mean |" in printed
    assert "| method | classifier | 5-way 1-shot | Δ to student | 5-way 5-shot | Δ to student |" in printed
    assert gkd(*grid) == 0
    assert "nothing was trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("task.episodes.ways=6",), "6-way episodes need as many classes, but the images have 5"),
        (("task.episodes.shots=170", "task.episodes.queries=30"), "170 shots and 30 queries need 200 images"),
        (("task.base=6",), "asks for 6 + 0 + 5 classes, but the data has 10"),
        (("task.teacher_classes={indices: [0, 1, 7]}",), "The teacher knows 1 of the 5 novel classes (7)"),
        (("task.episodes.classifiers=[nearest]",), "Unknown classifier 'nearest'"),
        (("data.name=folder", "data.root=nowhere"), "There is no file or folder nowhere"),
    ],
)
def test_bad_input_is_one_sentence(words, sentence, capsys):
    assert gkd("run", "few_shot/digits", *words) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told


@pytest.mark.full
def test_a_leak_that_is_allowed_is_told_in_the_table(capsys):
    leak = (
        "task.teacher_classes={indices: [0, 1, 2, 7]}",
        "task.allow_leak=true",
        "compare.methods=[student, sp]",
    )
    assert gkd("compare", "few_shot/digits", *leak, *FEW) == 0
    sentence = "the teacher was trained on 1 of the novel classes (7)."
    assert f"**Leak**: {sentence}" in capsys.readouterr().out
    assert gkd("compare", "few_shot/digits", *leak, *FEW, "compare.report=validation") == 0
    assert f"**Leak**: {sentence}" in capsys.readouterr().out
    assert gkd("run", "few_shot/digits", *leak[:2], "method=sp", *FEW) == 0
    assert f"leak      {sentence}" in capsys.readouterr().out
    assert gkd("eval", str(run_folder("sp"))) == 0
    assert f"leak      {sentence}" in capsys.readouterr().out


def test_eval_needs_nothing_of_a_teacher_of_other_data(capsys, tmp_path):
    """Aliases and teacher_classes name classes of the teacher's images, which need not be there any more."""
    theirs = tmp_path / "theirs"
    for split, part in (("train", range(12)), ("test", range(12, 16))):
        for name in ("zero", "one", "x"):
            (theirs / split / name).mkdir(parents=True)
            for number in part:
                Image.new("L", (8, 8), 16 * number).save(theirs / split / name / f"{number}.png")
    words = (
        "method=sp",
        f"teacher.data={{name: folder, root: '{theirs}', channels: 1}}",
        "task.aliases={'0': zero, '1': one}",
        "task.teacher_classes=[zero, one, x]",
    )
    assert gkd("run", "few_shot/digits", *words, *FEW) == 0
    capsys.readouterr()
    assert gkd("eval", str(run_folder("sp"))) == 0
    assert "5-way 1-shot: nearest-mean" in capsys.readouterr().out
