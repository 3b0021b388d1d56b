"""Runs survive: killed in any stage they end with the same bits, and a finished one is not repeated."""

import hashlib
import json
import signal
import time
from pathlib import Path

import pytest

from gkd.storage.weights import read_weights
from tests.cli_helpers import gkd, start

# Long enough that a busy machine still sees it in the middle (3 s), with a checkpoint every few steps.
WORDS = (
    "run", "cross_task/digits", "method=refilled", "run.epochs=80", "teacher.train.epochs=1", "evaluate.every=5",
    "data.per_class=20", "run.threads=1", "run.precision=float32",
)  # fmt: skip


def results(folder: Path) -> dict[str, str]:
    """Everything that a run leaves for later, weights as hashes, times apart."""
    (run,) = (folder / "runs" / "cross_task" / "digits").rglob("seed0")
    found = {"correct": (run / "correct.json").read_text()}
    for name in ("student.safetensors", "student-best.safetensors"):
        tensors, metadata = read_weights(
            run / name
        )  # the file's own bytes vary with the order of its metadata
        content = b"".join(key.encode() + tensors[key].numpy().tobytes() for key in sorted(tensors))
        found[name] = hashlib.sha256(content).hexdigest() + json.dumps(metadata, sort_keys=True)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        record.pop("seconds")
    found["metrics"] = json.dumps(records)
    return found


def wait_for_stage(folder: Path, stage: str, process) -> None:
    """Until the run has logged an epoch of a stage and written a checkpoint after it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        for path in (folder / "runs" / "cross_task" / "digits").glob("*/*/metrics.jsonl"):
            lines = [line for line in path.read_text().splitlines() if f'"stage": "{stage}"' in line]
            if len(lines) >= 3:
                return
        time.sleep(0.02)
    raise AssertionError(f"stage {stage} was not reached")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("whole")
    process = start(*WORDS, cwd=folder)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    return results(folder)


# In the embedding stage the routed run below is killed too.
@pytest.mark.parametrize("stage", [pytest.param("embedding", marks=pytest.mark.full), "classifier"])
def test_killed_in_a_stage_the_same_command_ends_with_the_same_bits(stage, uninterrupted, tmp_path):
    words = (*WORDS, "run.checkpoint_seconds=0.1")
    process = start(*words, cwd=tmp_path)
    wait_for_stage(tmp_path, stage, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.rglob("summary.json"))[1:], "killed before the end"
    process = start(*words, cwd=tmp_path)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert results(tmp_path) == uninterrupted


@pytest.mark.full
def test_killed_while_a_policy_routes_the_same_command_ends_with_the_same_bits(tmp_path):
    """The policy, its optimiser state, its generator and the counts of the epoch go on."""
    spots = "{policy: adaptive, initial_bias: 0.0}"
    words = (*WORDS, f"method.stages.embedding.spots={spots}", "run.checkpoint_seconds=0.1")
    found = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "killed":
            process = start(*words, cwd=folder)
            wait_for_stage(folder, "embedding", process)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not list(folder.rglob("routing.png"))
        process = start(*words, cwd=folder)
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
        (routing,) = folder.rglob("routing.json")
        shares = json.loads(routing.read_text())["shares"]
        assert 0 < shares["embedding"][0] < 1
        assert routing.with_name("routing.png").stat().st_size > 10_000
        student, _ = read_weights(routing.with_name("student.safetensors"))
        assert not any("router" in key or "policy" in key for key in student)
        found.append({**results(folder), "routing": routing.read_text()})
    assert found[0] == found[1]


def test_ctrl_c_saves_and_exits_with_130(uninterrupted, tmp_path):
    process = start(*WORDS, cwd=tmp_path)
    wait_for_stage(tmp_path, "embedding", process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "everything is saved" in errors
    process = start(*WORDS, cwd=tmp_path)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert results(tmp_path) == uninterrupted


def test_another_machine_is_refused_unless_allowed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    process = start(*WORDS, "run.checkpoint_seconds=0.1", cwd=tmp_path)
    wait_for_stage(tmp_path, "embedding", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (path,) = (tmp_path / "runs" / "cross_task" / "digits").rglob("env.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "threads": 7}))
    assert gkd(*WORDS) == 2
    assert "run.allow_changed=[threads]" in capsys.readouterr().err
    assert gkd(*WORDS, "run.allow_changed=[threads]") == 0


def test_a_second_process_in_the_same_folder_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = (*WORDS, "run.epochs=6000")  # it must not finish before the other one asks
    process = start(*words, cwd=tmp_path)
    wait_for_stage(tmp_path, "embedding", process)
    code = gkd(*words)
    still_running = process.poll() is None
    process.kill()
    process.wait()
    assert still_running
    assert code == 2
    assert "Another process" in capsys.readouterr().err


def test_two_seeds_at_once_share_one_teacher(tmp_path):
    words = [word for word in WORDS if not word.startswith("run.epochs")]
    processes = [start(*words, "run.epochs=4", f"run.seed={seed}", cwd=tmp_path) for seed in (0, 1)]
    for process in processes:
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
    assert len(list((tmp_path / "runs" / "teachers").rglob("summary.json"))) == 1
