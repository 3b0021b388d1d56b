"""Incremental runs from end to end: what a step takes over, what it leaves, and that nothing is lost."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gkd.config.load import load
from gkd.config.schema import Data, Validation
from gkd.config.shipped import configs_folder, shipped_methods
from gkd.config.yaml_files import parse_yaml
from gkd.experiment.sources import load_source
from gkd.incremental.accuracy_matrix import incremental_summary
from gkd.report.incremental_table import CURVES_PLOT, MATRIX_PLOT
from gkd.storage.checksums import sha256
from gkd.storage.weights import read_weights, save_weights
from tests.cli_helpers import gkd, start
from tests.step_helpers import WORDS, normalise, read, run, student


@pytest.mark.plots
def test_each_student_teaches_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("method=lwf")
    steps = [read(folder / "steps" / str(number)) for number in (1, 2, 3)]
    assert steps[0]["teacher"] is None
    assert steps[0]["teacher_hash"] is None
    for number in (1, 2):
        weights = folder / "steps" / str(number) / "student.safetensors"
        assert steps[number]["teacher"] == {
            "weights": f"steps/{number}/student.safetensors",
            "sha256": sha256(weights),
        }
        assert len(steps[number]["teacher_hash"]) == 64
    assert [step["classes"] for step in steps] == [list("012345"), list("67"), list("89")]
    metadata = read_weights(folder / "student.safetensors")[1]
    assert json.loads(metadata["classes"]) == list("0123456789")
    printed = capsys.readouterr().out
    assert "step  classes" in printed
    assert "average" in printed
    assert "forgetting" in printed
    assert (folder / CURVES_PLOT).stat().st_size > 10_000
    assert (folder / MATRIX_PLOT).stat().st_size > 5_000


def test_the_matrix_is_that_of_the_saved_students() -> None:
    """Step by step judged anew from the weight files alone."""
    folder = run("method=replay")
    matrices = read(folder, "matrix")
    source = load_source(Data(name="digits", validation=Validation(per_class=20)))
    from gkd.experiment.networks import build_side
    from gkd.experiment.prepare import prepare
    from gkd.training.predictions import predict

    prepared = prepare(load(folder / "config.yaml"))
    for number, classes in enumerate((6, 8, 10)):
        network = build_side(prepared.experiment.student, classes, source.test)
        network.load_state_dict(student(folder / "steps" / str(number + 1)))
        logits, _ = predict(network.to(memory_format=torch.channels_last), source.test, prepared.settings)
        labels = source.test.labels
        right = logits.argmax(1) == labels
        step_folder = folder / "steps" / str(number + 1)
        with (step_folder / "confusion.csv").open(newline="") as file:
            (_, *names), *rows_of_classes = csv.reader(file)
        assert names == [str(name) for name in range(classes)]
        seen = labels < classes
        for name, row in enumerate(rows_of_classes):
            taken = torch.bincount(logits.argmax(1)[labels == name], minlength=classes)
            assert row == [str(name), *map(str, taken.tolist())]
        judged = read(step_folder)["last"]
        top = (logits[seen].topk(5).indices == labels[seen][:, None]).any(1)
        assert judged["accuracy_top5"] == pytest.approx(100 * top.double().mean().item(), abs=1e-3)
        assert list(judged["accuracy_per_class"]) == names
        for name, share in judged["accuracy_per_class"].items():
            of_class = right[labels == int(name)].double().mean().item()
            assert share == pytest.approx(100 * of_class, abs=1e-3)
        for column, (low, high) in enumerate([(0, 6), (6, 8), (8, 10)][: number + 1]):
            rows = (labels >= low) & (labels < high)
            expected = 100 * right[rows].double().mean().item()
            assert matrices["classifier"]["rows"][number][column] == pytest.approx(expected)
            aware = logits[rows][:, low:high].argmax(1) + low == labels[rows]
            expected = 100 * aware.double().mean().item()
            assert matrices["classifier_task_aware"]["rows"][number][column] == pytest.approx(expected)
        rows = labels < classes
        assert matrices["classifier"]["seen"][number] == pytest.approx(
            100 * right[rows].double().mean().item()
        )
    summary = read(folder)
    assert summary["last"] == judged
    for name in ("confusion.csv", "confusion-best.csv"):
        assert (folder / name).read_text() == (step_folder / name).read_text()
    of_steps = [step["last"] for step in summary["incremental"]["steps"]]
    assert not any("accuracy_per_class" in each for each in of_steps)
    assert all("accuracy_top5" in each for each in of_steps)
    matrix = torch.tensor(
        [[v if v is not None else torch.nan for v in row] for row in matrices["classifier"]["rows"]]
    )
    summary = incremental_summary(matrix.double(), torch.tensor(matrices["test_images"]))
    for name, value in matrices["classifier"]["summary"].items():
        assert value == (None if summary[name] is None else pytest.approx(summary[name], abs=1e-3))


def test_memory_is_kept_as_numbers_and_shrinks_where_it_is_a_total() -> None:
    folder = run("method=replay", "task.memory_per_class=null", "task.memory_total=60")
    kept = [read(folder / "steps" / str(number), "memory")["exemplars"] for number in (1, 2, 3)]
    assert [{len(numbers) for numbers in memory.values()} for memory in kept] == [{10}, {7}, {6}]
    assert list(kept[2]) == list("0123456789")
    for earlier, later in pairwise(kept):
        for name in earlier:
            assert later[name] == earlier[name][: len(later[name])], "the first are kept"
    train = load_source(Data(name="digits", validation=Validation(per_class=20))).train
    for name, numbers in kept[2].items():
        assert set(train.labels[numbers].tolist()) == {int(name)}


@pytest.mark.full
def test_finetune_forgets_and_the_upper_bound_does_not() -> None:
    last = {
        method: read(run(f"method={method}", "run.epochs=5", "task.base_epochs=5"))["last"]["accuracy"]
        for method in ("finetune", "replay", "joint")
    }
    assert last["finetune"] < 75 < last["replay"] < last["joint"]
    assert last["joint"] > 95


def test_a_rule_changes_the_new_columns_of_what_is_saved() -> None:
    folder = run("method=wa")
    for number, old in ((2, 6), (3, 8)):
        own = folder / "steps" / str(number)
        lengths = student(own)["fc.weight"].norm(dim=1)
        assert lengths[:old].mean() == pytest.approx(lengths[old:].mean().item(), rel=1e-5)
        assert read(own)["rules"]["align-weights"]["gamma"] > 0
        trained = read_weights(sorted((own / "checkpoints").iterdir())[-1] / "distiller.safetensors")[0]
        assert torch.equal(trained["student.fc.weight"][:old], student(own)["fc.weight"][:old])
        assert not torch.equal(trained["student.fc.weight"][old:], student(own)["fc.weight"][old:])
    assert read(folder / "steps" / "1")["rules"] == {}


@pytest.mark.parametrize(
    ("words", "rehearsed"),
    [(("method=bic",), 18), (("method=lwf", "method.after=[fit-bias]", "method.held_out=0.1"), 0)],
)
def test_bias_correction_is_fitted_on_images_that_were_not_trained_on(
    words: tuple[str, ...], rehearsed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gkd.incremental import head_rules as rules
    from gkd.training import stage_run as train

    trained: list[Any] = []
    fitted: list[torch.Tensor] = []
    batches, fit_bias = train.Batches, rules.fit_bias
    monkeypatch.setattr(
        train, "Batches", lambda images, *a, **k: trained.append(images) or batches(images, *a, **k)
    )
    monkeypatch.setattr(rules, "fit_bias", lambda z, y, n: fitted.append(y) or fit_bias(z, y, n))
    folder = run(*words)
    whole = (
        load_source(Data(name="digits", validation=Validation(per_class=20))).train.class_counts().tolist()
    )
    for images, old in zip(trained[1:], (6, 8), strict=True):
        new = [count - 2 for count in whole[old : old + 2]]
        assert images.class_counts().tolist() == [rehearsed] * old + new
    # Of the last student of the last step, and of its best where that is another.
    assert [torch.bincount(labels).tolist() for labels in fitted] == [[2] * 8] + [[2] * 10] * (
        len(fitted) - 1
    )
    assert len(fitted) >= 2
    found = read(folder / "steps" / "3")["rules"]["fit-bias"]
    assert set(found) == {"alpha", "beta"}


def test_the_best_student_is_judged_where_it_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from gkd.incremental import answers as step_answers
    from gkd.incremental import learn as sequence

    judged: list[Any] = []
    fit, predict = sequence.fit, step_answers.predict
    monkeypatch.setattr(step_answers, "predict", lambda *a, **k: judged.append(a) or predict(*a, **k))

    def silent(*args: Any) -> Any:
        last, best, position = fit(*args)
        return last, {name: torch.zeros_like(value) for name, value in best.items()}, position

    def same(*args: Any) -> Any:
        last, _, position = fit(*args)
        return last, {name: value.clone() for name, value in last.items()}, position

    monkeypatch.setattr(sequence, "fit", silent)
    folder = run("method=finetune", "run.seed=1")
    step, twice = read(folder / "steps" / "3"), len(judged)
    assert step["last"]["accuracy"] > 15 > step["best"]["accuracy"]
    assert step["hashes"]["best"] != step["hashes"]["last"]
    metadata = read_weights(folder / "student-best.safetensors")[1]
    assert float(metadata["test_accuracy"]) == pytest.approx(step["best"]["accuracy"], abs=0.01)
    judged.clear()
    monkeypatch.setattr(sequence, "fit", same)
    step = read(run("method=finetune", "run.seed=2") / "steps" / "3")
    assert len(judged) < twice, "the same weights are not judged twice"
    assert {key: step["best"][key] for key in step["last"]} == step["last"]
    assert step["hashes"]["best"] == step["hashes"]["last"]


def test_old_columns_of_a_cosine_head_stay_and_new_ones_are_imprinted() -> None:
    folder = run("method=ucir")
    weights = [student(folder / "steps" / n)["fc.weight"] for n in "123"]
    assert torch.equal(weights[1][:6], weights[0]), "weight decay shortens them on the way"
    assert torch.equal(weights[2][:8], weights[1])
    trained = read_weights(sorted(folder.glob("steps/3/checkpoints/*"))[-1] / "distiller.safetensors")[0]
    decayed = trained["student.fc.weight"][:8]
    assert not torch.equal(decayed, weights[1])
    torch.testing.assert_close(decayed / decayed.norm(dim=1)[:, None], normalise(weights[1]))
    assert load(folder / "config.yaml").experiment.student.options == {"head": "cosine", "last_relu": False}


def test_a_proxy_head_grows_out_of_its_classes_means() -> None:
    folder = run("method=podnet", "run.epochs=4")
    assert student(folder)["fc.weight"].shape == (10, 10, 64)
    stages = [
        json.loads(line)["stage"] for line in (folder / "steps/2/metrics.jsonl").read_text().splitlines()
    ]
    assert list(dict.fromkeys(stages)) == ["distil", "balance"]
    first = [
        json.loads(line)["stage"] for line in (folder / "steps/1/metrics.jsonl").read_text().splitlines()
    ]
    assert set(first) == {"distil"}, "no class is old, so nothing is to be balanced"


def test_a_run_that_is_finished_is_reported_and_judged_again(capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("method=replay")
    capsys.readouterr()
    assert gkd("run", *WORDS, "method=replay") == 0
    assert "nothing was trained" in capsys.readouterr().out
    icarl = run("method=icarl")
    for finished in (folder, icarl):
        capsys.readouterr()
        assert gkd("eval", str(finished)) == 0
        assert f"accuracy {read(finished)['last']['accuracy']:.4g}" in capsys.readouterr().out
    assert gkd("export", str(folder), "--format", "safetensors") == 0
    # Its weight file answers as the run does, by the means that it holds; without them it says where they are.
    file, data = icarl / "student.safetensors", "data.name=digits"
    accuracy = read(icarl)["last"]["accuracy"]
    assert gkd("eval", str(file), data) == 0
    printed = capsys.readouterr().out
    assert "by the nearest class mean of the exemplars in the file" in printed
    (line,) = (line for line in printed.splitlines() if "the file says" in line)
    assert line.startswith(f"accuracy {accuracy:.4g}  top-5 ")
    assert line.endswith(f"  (the file says accuracy {accuracy:.4g})")
    tensors, header = read_weights(file)
    for gone in (
        ["class_means"],
        ["class_means", "preprocessing"],
    ):  # the latter as files were written before
        save_weights(Path("w.safetensors"), tensors, {k: v for k, v in header.items() if k not in gone})
        assert gkd("eval", "w.safetensors", data) == 0
        printed = capsys.readouterr().out
        assert "its run is judged by the nearest class mean" in printed
        assert "the file does not hold them: they come from the run's folder (gkd eval RUN)" in printed
        assert f"accuracy {accuracy:.4g}  (" not in printed


@pytest.mark.full
def test_a_table_of_methods_over_orders(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("task.order=seed", "compare.methods=[finetune, replay]", "compare.seeds=[0, 1]")
    assert gkd("compare", *WORDS, *words) == 0
    printed = capsys.readouterr().out
    assert "| method | answered by | average | last | forgetting |" in printed
    assert "± " in printed
    orders = {tuple(read(p.parent, "matrix")["classes"][0]) for p in Path("runs").rglob("matrix.json")}
    assert len(orders) == 2
    (table,) = Path("runs").rglob("table.json")
    assert {(row["label"], row["n"]) for row in read(table.parent, "table")["rows"]} == {
        ("finetune", 2),
        ("replay", 2),
    }
    assert (table.parent / CURVES_PLOT).is_file()


@pytest.mark.parametrize("method", sorted({"icarl", "wa", "refilled", "sp", "eeil"} & set(shipped_methods())))
def test_every_kind_of_method_goes_through_three_steps(method: str) -> None:
    steps = len(shipped_methods()[method].stages)
    folder = run(f"method={method}", f"run.epochs={steps}", "task.base_epochs=1")
    assert len(read(folder)["incremental"]["steps"]) == 3


@pytest.mark.full
@pytest.mark.parametrize("method", load("incremental/digits").experiment.compare.methods)
def test_every_method_learns_digits(method: str) -> None:
    """The config as it is; where a step brings one class, losses over the new classes alone have nothing to learn."""
    assert gkd("run", "incremental/digits", f"method={method}") == 0
    (folder,) = (path.parent for path in Path("runs").rglob("matrix.json"))
    summary = read(folder)
    assert summary["incremental"]["summary"]["average"] > (35 if method in ("finetune", "lwf") else 65)


def results(folder: Path) -> dict[str, str]:
    """What a run leaves, weights as hashes, times apart."""
    (path,) = folder.rglob("seed0/matrix.json")
    found = {"matrix": path.read_text(), "correct": path.with_name("correct.json").read_text()}
    for file in sorted(path.parent.rglob("student*.safetensors")):
        tensors, _ = read_weights(file)
        content = b"".join(key.encode() + tensors[key].numpy().tobytes() for key in sorted(tensors))
        found[str(file.relative_to(path.parent))] = hashlib.sha256(content).hexdigest()
    for file in sorted(path.parent.rglob("memory.json")):
        found[str(file.relative_to(path.parent))] = file.read_text()
    return found


# PODNet has two stages a step, DER a network that grows.
@pytest.mark.full
@pytest.mark.parametrize("method", ["podnet", "der"])
def test_killed_in_step_3_the_same_command_ends_with_the_same_bits(tmp_path: Path, method: str) -> None:
    words = ("run", *WORDS, f"method={method}", "run.epochs=6", "task.base_epochs=2")
    found = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "killed":
            process = start(*words, "run.checkpoint_seconds=0.1", cwd=folder)
            deadline = time.monotonic() + 120
            while not (path := next(folder.glob("runs/*/*/*/seed0/steps/3/metrics.jsonl"), None)) or (
                path.read_text().count("\n") < 2
            ):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert path.read_text().count("\n") < 6, "killed before the end"
            assert not (path.parent / "summary.json").exists()
            before = {p: p.stat().st_mtime_ns for p in folder.rglob("steps/[12]/summary.json")}
            assert len(before) == 2
        process = start(*words, cwd=folder)
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
        found.append(results(folder))
    assert {p: p.stat().st_mtime_ns for p in before} == before, "finished steps are not repeated"
    assert found[0] == found[1]
    assert (
        len(found[0]) == 2 + 3 + 1 + 2 + 3
    )  # two files, each step's student, the best, both of the run, memories


def test_one_step_ends_with_the_bits_of_a_cross_task_run() -> None:
    """On the same data both adapters share the teacher's run and end with the same student."""
    classes = [str(digit) for digit in range(10)]
    words = ("run.epochs=2", "run.threads=1", "run.seed=3", "data.batch_size=64", "method=sp")
    words += ("method.stages.distil.data=seen", "teacher={network: resnet14, train: {epochs: 1}}")
    step = ("task.base=5", "task.increment=5", "task.fresh_student=true", "task.memory_per_class=null")
    cross = f"task={{name: cross_task, teacher_classes: {classes[:5]}, student_classes: {classes}}}"
    content = parse_yaml(configs_folder().joinpath("incremental/digits.yaml").read_text(), "digits")
    content.pop("compare")
    Path("mine.yaml").write_text(
        yaml.safe_dump({**content, "task": parse_yaml(cross.removeprefix("task="), "task")})
    )
    assert gkd("run", "incremental/digits", *step, *words) == 0
    assert gkd("run", "mine.yaml", *words) == 0
    assert len(list(Path("runs/teachers").rglob("summary.json"))) == 1
    for name in ("student", "student-best"):
        ours, theirs = (
            student(next(Path(f"runs/{config}").glob("*/*/summary.json")).parent, name)
            for config in ("incremental/digits", "mine")
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
