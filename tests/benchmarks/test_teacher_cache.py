"""benchmarks/teacher_cache.py: what is committed is whole, and its table says what it holds."""

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_committed_result_has_every_pair_and_method_and_reaches_what_is_asked_for(script):
    committed = json.loads((FOLDER / "results" / "teacher_cache.json").read_text())
    assert [(cell["teacher"], cell["student"], cell["method"]) for cell in committed["cells"]] == [
        (*pair, method) for pair in script.PAIRS for method in script.METHODS
    ]
    for cell in committed["cells"]:
        assert cell["times_student"].keys() == set(script.KEPT)
        assert cell["method"] != "kd" or cell["times_student"]["disk"] <= script.ALLOWED
    assert (FOLDER / "results" / "teacher_cache.md").read_text() == script.table(committed) + "\n"


def test_epochs_from_the_disk_open_what_the_first_one_wrote(script, tmp_path):
    made = {
        kept: script.Epochs(("resnet14", "resnet8"), script.METHODS["at"], kept, 64, tmp_path / kept)
        for kept in ("live", "disk, cold")
    }
    first = script.one_epoch(made)
    stamps = [path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")]
    assert len(stamps) == 1
    second = script.one_epoch(made)
    assert [path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")] == stamps
    assert all(len(steps) == 1 for steps in (*first.values(), *second.values()))
