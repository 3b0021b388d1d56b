"""Bad input of incremental runs: one clear sentence before anything is trained, exit code 2, nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from gkd.models import build_network
from tests.cli_helpers import gkd

Refused = Callable[..., str]
DIGITS = "incremental/digits"


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command in an empty folder, asserts exit code 2 and an empty folder, and returns its one sentence."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert gkd(*words) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert "\n" not in error.strip(), error
        assert sorted(tmp_path.rglob("*")) == before, "nothing was written"
        return error

    return run


SCENARIOS = [
    (["task.base=8", "task.increment=5"], "A base of 8 classes and an increment of 5 need 13 classes, but the data"),
    (["task.base=20"], "use base + increment <= 10"),
    (["task.base=-1"], "task.base: Input should be greater than or equal to 0, got -1"),
    (["task.increment=0"], "task.increment: Input should be greater than or equal to 1, got 0"),
    (["task.order=[0, 1, 2, 3, 4, 5, 6, 7, 8, 8]"], "names the class '8' twice"),
    (["task.order=[0, 1, 2, 3, 4, 5, 6, 7, 8]"], "misses 1 of the data's 10 classes ('9')"),
    (["task.order=1993th"], "Class order '1993th' is unknown; use 'natural'"),
    (["task.steps=[[0, 1], [2]]"], "not both; drop one, in an override by null, as in task.base=null"),
    (["task.base=null", "task.increment=null", "task.steps=[[0, 1, 2, 3, 4], [5, 6, 7, 8, x]]"], "Unknown class 'x'"),
    (["task.base=null", "task.increment=null", "task.steps=[[0, 1, 2, 3, 4], [5, 6]]"], "misses 3 of the data's 10"),
    (["task.base=null", "task.increment=null", "task.steps=folders"], "use data.name=step-folders"),
    (["task.start_from=6"], "leaves nothing to learn: there are 6 steps; use 1 to 5"),
    (["task.memory_total=5", "task.memory_per_class=null"], "less than one exemplar for each of 10 classes; use at"),
    (["task.memory_total=200"], "memory_total or memory_per_class, not both (200 and 20)"),
    (["task.memory_per_class=-3"], "task.memory_per_class: Input should be greater than or equal to 1, got -3"),
    (["task.selection=herd"], "Did you mean 'herding'?"),
    (["task.memory=20"], "Did you mean 'memory_total'?"),
    (["method.after=[align]"], "should be 'align-weights' or 'fit-bias'"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "sentence"), SCENARIOS)
def test_what_no_method_can_have_is_refused_by_validate_and_run(
    words: list[str], sentence: str, refused: Refused
) -> None:
    for verb in ("validate", "run"):
        assert sentence in refused(verb, DIGITS, *words)


TEACHER = "teacher={network: resnet14, train: {epochs: 1}}"
METHODS = [
    (["method=icarl", "task.memory_per_class=null"], "rehearses exemplars of old classes, but the task keeps none"),
    (["method=replay", "task.memory_per_class=null"], "set task.memory_per_class=20, or task.memory_total=2000"),
    (["method=bic", "task.memory_per_class=1"], "keeps 1 of each class's exemplars from training, but a class has 1"),
    (["method=bic", "task.memory_per_class=null", "task.memory_total=12"], "a class has 1; use a larger task.memory_"),
    (["method=podnet", "method.after=[align-weights]"], "The head is a ProxyHead, but align-weights is on the weights"),
    (["method=ucir", "method.after=[fit-bias]", "method.held_out=0.1"], "The head is a CosineHead, but fit-bias is"),
    (["method=wa", "method.growth.old=frozen"], "freezes the old classes' columns, which a Linear cannot"),
    (["task.start_from=2"], "task.start_from=2 needs the model of that step"),
    ([TEACHER], "the teacher's resnet14, and the student resnet8, which cannot grow out of it; make them the same, or"),
    (["teacher={network: resnet8, train: {epochs: 1}, options: {head: cosine}}"], "with the options {'head'"),
    (["student.checkpoint=mine.safetensors"], "teacher.checkpoint instead of student.checkpoint"),
    (["teacher={network: resnet8, checkpoint: mine.safetensors}"], "mine.safetensors does not exist"),
    (["method=kd", "task.base=1"], "share only one; a softmax needs at least two"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "sentence"), METHODS)
def test_what_a_method_cannot_have_is_refused_before_the_first_step(
    words: list[str], sentence: str, refused: Refused
) -> None:
    assert sentence in refused("run", DIGITS, *words, "--dry-run")


# What only a later step or stage would meet, after the steps before it were trained.
LATER = [
    (["method=podnet", "task.memory_per_class=5", "data.per_class=5"],
     "The class '5' of step 2 has 5 training images, from which method.growth.new=imprint makes 10"),
    (["method=bic", "task.memory_per_class=20", "data.per_class=2", "method.held_out=0.9"],
     "keeps 2 of each class's exemplars from training, but a class has 2"),
    (["method=replay", "task.memory_per_class=2", "data.images_per_class=4", "data.batch_size=16"],
     "In step-2: The class '0' of digits"),
    (["method=podnet", "method.stages.balance.train=[haed]"], "Unknown part to train 'haed'"),
    (["method=podnet", "method.stages.distil.terms.pod.at={student: [1, 9], teacher: [1, 9]}"], "The spot 9 is out"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "sentence"), LATER)
def test_what_a_later_step_would_meet_is_refused_before_the_first_by_every_verb(
    words: list[str], sentence: str, refused: Refused
) -> None:
    words = [DIGITS, "compare=null", "run.threads=1", *words]
    told = {refused("run", *words), refused("run", *words, "--dry-run"), refused("validate", *words)}
    assert len(told) == 1
    assert sentence in told.pop()
    assert not list(Path("runs").rglob("steps"))  # nothing was trained


def test_the_remedy_of_a_class_of_few_images_works() -> None:
    words = ("compare=null", "method=podnet", "task.memory_per_class=5", "data.per_class=5")
    assert gkd("validate", DIGITS, *words, "method.growth={new: random}") == 0
    assert gkd("validate", DIGITS, *words[:-1], "data.per_class=10") == 0


@pytest.mark.parametrize("method", ["wa", "bic"])
@pytest.mark.parametrize("config", ["cross_task/digits", "standard/vit_teacher"])
def test_rules_after_steps_need_steps(method: str, config: str, refused: Refused) -> None:
    words = ["data={name: digits}", "student.network=resnet8", "teacher={network: resnet8}"]
    error = refused(
        "run", config, f"method={method}", *(words if config != "cross_task/digits" else []), "--dry-run"
    )
    assert f"{method!r} ends every incremental step by" in error
    assert (
        "use a task that has (from Python: gkd.incremental.learn_step), or do without by method.after=[]"
        in error
    )


def test_methods_that_would_work_have_no_rules_after_steps(refused: Refused) -> None:
    listed = refused("run", "cross_task/digits", "method=lwf").split("Methods that work here: ")[1]
    assert "icarl_softmax" in listed
    assert "replay" not in listed  # it reads no teacher
    assert "wa" not in listed.rstrip(".\n").split(", ")


def test_a_model_of_another_order_or_network_is_refused_by_a_dry_run_too(
    refused: Refused, tmp_path: Path
) -> None:
    facts = {"network": "resnet8", "classes": json.dumps(list("43210")), "mean": "0.5", "std": "0.5"}
    weights = build_network("resnet8", num_classes=5, in_channels=1).state_dict()
    save_file(weights, tmp_path / "model.safetensors", metadata=facts)
    teacher = (
        "teacher={network: resnet8, checkpoint: model.safetensors}",
        "data.mean=[0.5]",
        "data.std=[0.5]",
    )
    for words, sentence in (
        ([], "is of another class order: its column 0 is '4', where the task has '0'; set task.order"),
        (["task.fresh_student=true"], "is of another class order"),
        (["task.base=6"], "has 5 classes, but 6 have come by then"),
        (["task.order=[4, 3, 2, 1, 0, 5, 6, 7, 8, 9]", "data.mean=[0.1]"], "has its input normalised by"),
    ):
        assert sentence in refused("run", DIGITS, *teacher, *words, "--dry-run")
    assert gkd("run", DIGITS, *teacher, "task.order=[4, 3, 2, 1, 0, 5, 6, 7, 8, 9]", "--dry-run") == 0


def test_validate_says_what_the_configs_own_method_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a grid the rows may be other methods, so it is a line and no refusal."""
    assert gkd("validate", DIGITS, "task.memory_per_class=null") == 0
    assert "# The method 'replay' rehearses exemplars of old classes" in capsys.readouterr().out
    assert gkd("validate", DIGITS, "task.memory_per_class=null", "method=lwf") == 0
    assert "rehearses" not in capsys.readouterr().out


def test_a_memory_of_every_image_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("data.per_class=12", "task.base=5", "task.increment=5", "run.epochs=1", "task.base_epochs=1")
    assert gkd("run", DIGITS, *words, "run.threads=1") == 0
    assert "the memory of 20 exemplars a class holds every image, for no class has more than 12" in (
        capsys.readouterr().out
    )
    assert gkd("run", DIGITS, *words, "run.threads=1", "task.memory_per_class=11") == 0
    assert "holds every image" not in capsys.readouterr().out


def test_another_order_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("run", DIGITS, "task.increment=5", "run.epochs=1", "task.base_epochs=1", "run.threads=1")
    found = {}
    for order in ("natural", "7"):
        assert gkd(*words, f"task.order={order}", "data.batch_size=64") == 0
        found[order] = {path: path.read_text() for path in Path("runs").rglob("matrix.json")}
    assert len(found["natural"]) == 1
    assert len(found["7"]) == 2
    assert found["natural"].items() <= found["7"].items(), "the first run is as it was"


@pytest.mark.parametrize(
    ("words", "row", "sentence"),
    [
        ([DIGITS, "compare.methods=[finetune, icarl]", "task.memory_per_class=null"], "icarl", "the task keeps none"),
        ([DIGITS, "compare.methods=[finetune, bic]", "task.memory_per_class=1"], "bic", "but a class has 1"),
        (["cross_task/digits", "compare.methods=[student, wa]"], "wa", "has no steps; use a task that has"),
    ],
)  # fmt: skip
def test_a_grid_refuses_a_row_before_it_trains_those_above(
    words: list[str], row: str, sentence: str, refused: Refused
) -> None:
    error = refused("compare", *words)
    assert f"Row {row!r}" in error
    assert sentence in error


def test_a_grid_without_its_baseline_says_how_to_name_another(refused: Refused) -> None:
    error = refused("compare", DIGITS, "compare.methods=[replay, wa]")
    assert "Unknown baseline 'finetune'" in error
    assert "compare.baseline=replay" in error
