"""benchmarks/refactor.py: what its comparison sees and does not see, its interval, and what is committed."""

import json
import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
COMMITTED = FOLDER / "results" / "refactor.json"
TENSORS = {
    "head": ("F32", [2], struct.pack("<2f", 1.0, 2.0)),
    "body": ("F32", [1, 1], struct.pack("<f", 3.0)),
}


@pytest.fixture
def outcome(scripts):
    return scripts("_refactor_outcome")


def write(path, tensors, **beside):
    """A safetensors file."""
    header, content = {"__metadata__": beside}, b""
    for name, (dtype, shape, values) in tensors.items():
        offsets = [len(content), len(content) + len(values)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        content += values
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def write_run(folder, *, accuracy=90.0, seconds=1.0, loss=0.5, head=2.0, epoch_seconds=0.1):
    """A run folder as gkd leaves it, in what is read of it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {**TENSORS, "head": ("F32", [2], struct.pack("<2f", 1.0, head))}
    write(folder / "student.safetensors", tensors, network="resnet8")
    write(folder / "checkpoints" / "1" / "best.safetensors", TENSORS)
    summary = {"last": {"accuracy": accuracy, "nll": 1.0}, "seconds": seconds, "commit": "abc"}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text(json.dumps({"loss": loss, "seconds": epoch_seconds}) + "\n")
    (folder / "env.json").write_text(json.dumps({"commit": accuracy}))


def changed(which, value):
    return {**TENSORS, which: value}


@pytest.mark.parametrize(
    "other",
    [
        {"head": TENSORS["head"]},
        {"hand": TENSORS["head"], "body": TENSORS["body"]},
        changed("head", ("F32", [2], struct.pack("<2f", 1.0, math.nextafter(2.0, 3.0) + 2**-22))),
        changed("head", ("I32", *TENSORS["head"][1:])),
        changed("head", ("F32", [1, 2], TENSORS["head"][2])),
    ],
    ids=["tensor", "name", "bits", "dtype", "shape"],
)
def test_a_state_is_another_by_its_tensors(outcome, tmp_path, other):
    same = write(tmp_path / "same.safetensors", dict(reversed(TENSORS.items())), test_accuracy="1.00")
    one = outcome.state_hash(write(tmp_path / "one.safetensors", TENSORS))
    assert outcome.state_hash(same) == one, "neither order nor what stands beside the tensors counts"
    assert outcome.state_hash(write(tmp_path / "other.safetensors", other)) != one


def test_the_format_is_that_of_the_library(outcome, tmp_path):
    tensors = {"head": np.array([1.0, 2.0], np.float32), "body": np.array([[3.0]], np.float32)}
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"network": "resnet8"})
    ours = write(tmp_path / "ours.safetensors", TENSORS)
    assert outcome.state_hash(tmp_path / "theirs.safetensors") == outcome.state_hash(ours)
    assert outcome.metadata(tmp_path / "theirs.safetensors") == {"network": "resnet8"}


def test_an_outcome_is_the_same_whatever_the_time(script, outcome, tmp_path):
    write_run(tmp_path / "before" / "runs" / "sp-1" / "seed0")
    write_run(tmp_path / "after" / "runs" / "sp-1" / "seed0", seconds=7.0, epoch_seconds=0.9)
    before, after = (outcome.outcome(tmp_path / side / "runs") for side in script.SIDES)
    assert list(before["weights"]) == ["sp-1/seed0/student.safetensors"], "checkpoints are no result"
    assert before["accuracies"] == {"sp-1/seed0": {"last.accuracy": 90.0}}
    assert script.differences(before, after) == []


@pytest.mark.parametrize(
    ("other", "where"),
    [
        (
            {"accuracy": 90.25},
            ["accuracies.sp-1/seed0.last.accuracy: 90.0, then 90.25", "files.summary.json"],
        ),
        ({"loss": 0.25}, ["files.metrics.jsonl"]),
        ({"head": 2.5}, ["weights.sp-1/seed0/student.safetensors"]),
    ],
)
def test_an_outcome_differs_where_it_does(script, outcome, tmp_path, other, where):
    write_run(tmp_path / "before" / "runs" / "sp-1" / "seed0")
    write_run(tmp_path / "after" / "runs" / "sp-1" / "seed0", **other)
    found = script.differences(*(outcome.outcome(tmp_path / side / "runs") for side in script.SIDES))
    assert [line.split(": ")[0] for line in found] == [line.split(": ")[0] for line in where]
    assert found[0].startswith(where[0])


def test_only_what_is_new_by_default_may_be_more(outcome, tmp_path):
    summary, config = tmp_path / "summary.json", tmp_path / "config.yaml"
    summary.write_text('{"last": {"version": 1}, "seconds": 1}')
    config.write_text("lr: 0.1  # override lr=0.1\n  paper: A. B.\n")
    before = [outcome.file_hash(path) for path in (summary, config)]
    summary.write_text('{"kind": "accuracy", "version": 1, "seconds": 2, "last": {"version": 1}}')
    config.write_text("lr: 0.1  # override lr=0.1\n  paper: ours, after A. B.\n  options: {}  # default\n")
    assert [outcome.file_hash(path) for path in (summary, config)] == before
    summary.write_text('{"last": {"version": 2}}')
    config.write_text("lr: 0.1  # override lr=0.1\n  options: {eps: 1}  # experiment\n")
    assert not set(before) & {outcome.file_hash(path) for path in (summary, config)}


def test_another_run_folder_is_a_difference(script, outcome, tmp_path):
    """A folder's name holds the identity: under another one no run of before would be found again."""
    write_run(tmp_path / "before" / "runs" / "sp-1" / "seed0")
    write_run(tmp_path / "after" / "runs" / "sp-2" / "seed0")
    found = script.differences(*(outcome.outcome(tmp_path / side / "runs") for side in script.SIDES))
    assert "weights.sp-1/seed0/student.safetensors: only before" in found
    assert "weights.sp-2/seed0/student.safetensors: only after" in found


def test_differences_see_types_lengths_and_depth(script):
    assert script.differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) == []
    assert script.differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == ["a.1.b: 2, then 3"]
    assert script.differences({"a": [1, 2]}, {"a": [1]}) == ["a: [1, 2], then [1]"]
    assert script.differences({"a": 1}, {"a": True}) == ["a: 1, then True"]
    assert script.differences({"a": None}, {}) == ["a: only before"]
    assert script.differences({"a": math.nan}, {"a": math.nan}) == []
    assert script.differences({"seconds": 1, "a": "x" * 99}, {"seconds": 2, "a": "y" * 99}) == ["a"]


def test_a_run_that_started_anew_did_not_go_on(outcome):
    stopped = {"steps/1/metrics.jsonl": ["a", "b"], "steps/2/metrics.jsonl": ["c"]}
    assert outcome.kept(stopped, {**stopped, "steps/2/metrics.jsonl": ["c", "d"]})
    assert not outcome.kept(stopped, {**stopped, "steps/2/metrics.jsonl": ["e", "d"]})
    assert not outcome.kept(stopped, {"steps/2/metrics.jsonl": ["c"]})


def sides(part, before, after):
    return {part: {"before": {"cells": before}, "after": {"cells": after}}}


def test_the_verdict_names_the_cell_that_differs(script):
    record = script.Record(None)
    record.content = sides(
        "bits", {"sp": {"a": 1}, "kd": {"a": 1}, "ft": {"a": 1}}, {"sp": {"a": 1}, "kd": {"a": 2}}
    )
    said = script.verdict(record)
    assert said["bits"] == {"cells": 3, "compared": 2, "differences": {"kd": ["a: 1, then 2"]}}
    assert script.differs(said)
    assert "| bits | 1 of 2 equal, 1 not compared yet |" in script.table(said)


@pytest.mark.parametrize(
    ("side", "cell", "key"),
    [
        ("after", {"a": 1, "not_started_anew": False}, "differences"),
        ("after", {"a": 2, "not_started_anew": True}, "differences"),
        ("before", {"a": 2, "not_started_anew": True}, "differences_before"),
    ],
)
def test_a_continued_run_is_compared_with_the_one_that_nobody_stopped(script, side, cell, key):
    record, good = script.Record(None), {"a": 1, "not_started_anew": True}
    cells = {"before": {"sp": good}, "after": {"sp": good}}
    record.content = {
        **sides("bits", {"sp": {"a": 1}}, {}),
        **sides("resume", cells["before"], cells["after"]),
    }
    assert not script.differs(script.verdict(record))
    cells[side]["sp"] = cell
    record.content |= sides("resume", cells["before"], cells["after"])
    said = script.verdict(record)
    assert list(said["resume"][key]) == ["sp"]
    assert script.differs(said)


def test_the_interval_is_students_of_the_logarithms(scripts):
    checks = scripts("_refactor_checks")
    steady = [{"before": 100.0, "after": 50.0}] * 5
    assert checks.ratio_interval(steady) == pytest.approx((2.0, 2.0, 2.0))
    # Three logarithms -0.1, 0, 0.1: t(0.975, 2) = 4.30265, standard error 0.1 / sqrt(3).
    pairs = [{"before": math.exp(log), "after": 1.0} for log in (-0.1, 0.0, 0.1)]
    ratio, low, high = checks.ratio_interval(pairs)
    reach = 4.30265 * 0.1 / math.sqrt(3)
    assert (ratio, low, high) == pytest.approx((1.0, math.exp(-reach), math.exp(reach)), rel=1e-5)
    assert checks.ratio_interval(pairs[:1])[1:] == (0.0, math.inf)


def test_counts_of_a_suite_are_read_from_its_last_line(scripts):
    checks = scripts("_refactor_checks")
    said = "..F\nFAILED tests/test_a.py::test_b - 3 passed\n1 failed, 20 passed, 3 deselected in 4.56s\n"
    counts = {"failed": 1, "passed": 20, "deselected": 3}
    assert checks.counted(said) == {**counts, "not_passed": ["FAILED tests/test_a.py::test_b"]}
    assert checks.counted("20 passed, 1 warning in 1.0s\nCoverage JSON written\n")["passed"] == 20


def test_other_code_has_another_checksum(script, tmp_path):
    (tmp_path / "gkd" / "core").mkdir(parents=True)
    (tmp_path / "gkd" / "a.py").write_text("x = 1\n")
    checkout = script.Checkout(tmp_path)
    first = checkout.sources()
    (tmp_path / "gkd" / "a.py").rename(tmp_path / "gkd" / "core" / "a.py")
    moved = checkout.sources()
    (tmp_path / "gkd" / "core" / "a.py").write_text("x = 2\n")
    assert len({first, moved, checkout.sources()}) == 3


def test_the_recorded_command_names_no_place(script):
    words = ["bits", "--before", "/here/a", "--work=/here/b", "--out", "benchmarks/results/refactor.json"]
    assert script.command(words) == (
        "python benchmarks/refactor.py bits --before CHECKOUT --work=FOLDER --out benchmarks/results/refactor.json"
    )


def test_every_part_is_asked_for_by_name(script, capsys):
    with pytest.raises(SystemExit):
        script.arguments(["bytes", "--before", "a", "--work", "b"])
    assert "no part: bytes" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.arguments(["step", "--before", "a", "--work", "b"])
    assert script.arguments(["--before", "a", "--work", "b"]).parts == list(script.PARTS)


def test_what_is_committed_is_whole_and_nothing_differs(script, scripts):
    record = script.Record(COMMITTED)
    said = script.verdict(record)
    assert said == record.content["verdict"]
    assert record.cells("bits", "before").keys() == scripts("_refactor_runs").RUNS.keys()
    for side in ("before", "after"):
        assert {part for part in script.PARTS if record.cells(part, side)} == set(script.PARTS)
    assert all(said[part]["compared"] == said[part]["cells"] > 0 for part in script.COMPARED)
    assert not script.differs(said)
    ratios = [value for key, value in said["step"].items() if key != "start"]
    assert ratios
    assert all(each["low"] <= 1 <= each["high"] or each["high"] < 1.02 for each in ratios)
    percent = {side: cell["percent"] for side, cell in said["coverage"]["coverage"].items()}
    assert percent["after"] > percent["before"] - 1
    assert (FOLDER / "results" / "refactor.md").read_text() == script.table(said) + "\n"
    assert not re.search(r"(?<![\w.])/\w+/", COMMITTED.read_text())  # no absolute path, of whatever machine
