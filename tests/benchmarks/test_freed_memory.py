"""benchmarks/freed_memory.py: what is committed is whole, and a step gives the same bits either way."""

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_committed_result_has_every_case_and_its_table(script):
    committed = json.loads((FOLDER / "results" / "freed_memory.json").read_text())
    assert [
        (cell["what"], cell["network"], cell["images"], cell["pixels"]) for cell in committed["cells"]
    ] == list(script.CASES)
    assert all(cell["equal"] for cell in committed["cells"])
    assert (FOLDER / "results" / "freed_memory.md").read_text() == script.table(committed["cells"]) + "\n"


def test_a_step_has_the_same_bits_with_and_without(script):
    cell = script.compared("a step of training", "resnet8", 8, 8, rounds=1, pairs=1, threads=1)
    assert cell["equal"]
    assert cell["times"] > 0
